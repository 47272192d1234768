"""Trains several seeds side by side, each in a process of its own: ``python -m metarl.train --seeds 0-4``."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import IO

from metarl.common.cores import available_cores, num_launched
from metarl.common.errors import Fault, UserError
from metarl.common.output import say_on_stdout
from metarl.common.signals import sigterm_raises
from metarl.config.config import Config
from metarl.config.settings import RunSettings

_SECONDS_BETWEEN_LOOKS = 0.2
_MOST_SEEDS = 1000


def split_seeds(arguments: Sequence[str]) -> tuple[list[int], list[str]]:
    """Splits ``--seeds`` off a command line.

    Returns:
        The seeds, none without the option; and the other words.

    Raises:
        UserError: If the seeds are impossible, or ``--seed`` is given, too.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--seeds", nargs="*")
    known, others = parser.parse_known_args(arguments)
    if known.seeds is None:
        return [], list(arguments)
    if any(re.fullmatch("--seed(=.*)?", word) for word in others):
        raise UserError("--seed and --seeds both say which seeds to train; give one of them.")
    ranges = list(map(_range, known.seeds))
    if not 1 <= sum(map(len, ranges)) <= _MOST_SEEDS:
        got = " ".join(known.seeds)
        raise UserError(f"--seeds must be 1 to {_MOST_SEEDS} seeds, such as 0-4 or 0 2 5, got {got!r}.")
    seeds = [seed for some in ranges for seed in some]
    if twice := [seed for seed, times in Counter(seeds).items() if times > 1]:
        raise UserError(f"--seeds must differ, and names {twice[0]} more than once.")
    return seeds, others


def _range(word: str) -> range:
    match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", word)
    if match is None:
        raise UserError(f"--seeds must be whole numbers from 0 to 999999999, such as 0-4 or 0 2 5, got {word!r}.")
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first:
        raise UserError(f"--seeds {word} ends before it begins; write {last}-{first}.")
    return range(first, last + 1)


def train_seeds(seeds: Sequence[int], others: Sequence[str], parse: Callable[[Sequence[str], bool], Config]) -> None:
    """Trains each seed in a process with one thread, as many at a time as there are cores.

    What a process prints is printed when it ends. The error of one does not stop the others.

    Args:
        seeds: The seeds.
        others: The other words of the command line. A ``--run-dir`` among them gets the seed as a suffix.
        parse: Parses a command line; called with its words, and whether not to say what of a preset was left out.

    Raises:
        UserError: If a setting is impossible; nothing is started then.
        Fault: If a run has failed; the others have finished.
    """
    if num_launched():
        raise UserError("--seeds starts a process for each seed itself; leave torchrun out, or give one --seed.")
    waiting = {seed: _words_of(seed, others) for seed in seeds}
    # What is left out is the same for all seeds; the first says it.
    runs = {seed: parse(words, seed != seeds[0]).resolve().run for seed, words in waiting.items()}
    at_once = _at_once(runs.values())
    failed: dict[int, int] = {}
    with _Processes() as processes, sigterm_raises():
        while waiting or processes.running:
            while waiting and len(processes.running) < at_once:
                seed = next(iter(waiting))
                processes.start(seed, waiting.pop(seed))
                say_on_stdout(f"seed {seed} started")
            for seed, code, printed in processes.ended():
                say_on_stdout(f"seed {seed}: {printed}")
                if code:
                    failed[seed] = code
    done = [seed for seed in seeds if seed not in failed]
    say_on_stdout(f"{len(done)} of {len(seeds)} seeds are done" + (f": {', '.join(map(str, done))}" if done else ""))
    if failed:
        codes = ", ".join(f"{seed} (exit code {code})" for seed, code in failed.items())
        raise Fault(f"these seeds have failed: {codes}.")


def _at_once(runs: Iterable[RunSettings]) -> int:
    """How many runs fill the cores, at least one."""
    cores = available_cores()
    return max(1, min(cores // (run.processes * (run.threads or cores)) for run in runs))


def _words_of(seed: int, others: Sequence[str]) -> list[str]:
    """The command line of one seed. Some seeds may have been stopped before they began: ``--resume`` starts those."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--run-dir", "--run_dir")
    parser.add_argument("--threads", default="1")
    parser.add_argument("--resume", nargs="?", const="auto")
    try:
        known, words = parser.parse_known_args(others)
    except argparse.ArgumentError as error:
        raise UserError(f"{error}.") from None
    folder = [] if known.run_dir is None else ["--run-dir", f"{known.run_dir}-seed{seed}"]
    resume = [] if known.resume is None else ["--resume", known.resume]
    return [*words, *folder, *resume, "--threads", known.threads, "--seed", str(seed)]


class _Processes:
    """The processes that run; those that still do at the end are stopped as by SIGTERM, so that each saves its run."""

    def __init__(self) -> None:
        self.running: dict[int, tuple[subprocess.Popen[bytes], IO[bytes]]] = {}

    def start(self, seed: int, words: Sequence[str]) -> None:
        """Starts the training of a seed."""
        printed = tempfile.TemporaryFile()  # noqa: SIM115 (closed when the process has ended)
        command = [sys.executable, "-m", "metarl.train", *words]
        self.running[seed] = (
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=printed, stderr=printed),
            printed,
        )

    def ended(self) -> Iterator[tuple[int, int, str]]:
        """Waits a moment; gives seed, exit code and last words of each process that has ended."""
        process, _ = next(iter(self.running.values()))
        with suppress(subprocess.TimeoutExpired):
            process.wait(_SECONDS_BETWEEN_LOOKS)
        for seed, (process, printed) in list(self.running.items()):
            if process.poll() is not None:
                del self.running[seed]
                yield seed, process.returncode, _told(printed, bool(process.returncode))

    def __enter__(self) -> _Processes:
        return self

    def __exit__(self, *error: object) -> None:
        for process, _ in self.running.values():
            process.terminate()  # They save. A shell's background jobs ignore Ctrl-C, and so do their children.
        for process, printed in self.running.values():
            process.wait()
            printed.close()


def _told(printed: IO[bytes], failed: bool) -> str:
    """The last line that a process has printed; of one that has failed, its error or traceback."""
    with printed:
        printed.seek(0)
        text = printed.read().decode(errors="replace").replace("\r", "\n")  # The live line is not one.
    lines = [line for line in text.split("\n") if line.strip()] or ["printed nothing"]
    begins = [number for number, line in enumerate(lines) if line.startswith(("Traceback", "error:"))]
    return "\n".join(lines[begins[-1] :] if failed and begins else lines[-1:])
