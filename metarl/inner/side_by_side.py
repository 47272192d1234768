"""Whether threads pay, found out by measuring."""

from __future__ import annotations

from collections.abc import Callable


class SideBySide:
    """Decides whether rounds of work run side by side in threads, or one piece after another.

    Threads pay where environments release the interpreter's lock. The first round warms up, one piece after another;
    the second runs in threads, the third does not; all later ones run as the faster of these two.

    Args:
        clock: Tells the time in seconds.

    Attributes:
        in_threads: Whether the next round runs in threads.
        speed_up: How many times as fast a step was in threads; None until the third round has ended.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.in_threads = False
        self.speed_up: float | None = None
        self._clock, self._costs = clock, list[float]()

    def run(self, work: Callable[[], int]) -> bool:
        """Runs one round; measures it if that is still needed.

        Args:
            work: Does the work as ``in_threads`` says; returns how many steps it took.

        Returns:
            Whether this round has decided.
        """
        begin = self._clock()
        steps = work()
        if self.speed_up is not None:
            return False
        self._costs.append((self._clock() - begin) / max(1, steps))
        if len(self._costs) == 3:
            self.speed_up = self._costs[2] / self._costs[1]
        self.in_threads = len(self._costs) == 1 or (self.speed_up or 0) > 1
        return self.speed_up is not None
