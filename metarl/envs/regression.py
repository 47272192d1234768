"""Regression tasks: functions of one number, such as sinusoids, of which a few points are known."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from metarl.common.arrays import FloatArray, IntArray
from metarl.common.errors import UserError
from metarl.envs.parameters import flag, not_negative, positive, whole_between
from metarl.envs.supervised import DEFAULTS, SupervisedFamily

INPUT_BOUND = 5.0
"""Inputs are uniform in [-5, 5]."""


class SinusoidFamily(SupervisedFamily):
    """Sinusoids y = amplitude sin(frequency x + phase); a task is (amplitude, frequency, phase), drawn uniformly.

    Args:
        lowest_frequency: Lowest frequency.
        highest_frequency: Highest frequency.
        shifted: Whether training and validation draw amplitude [0.1, 3], the lower half of the frequencies and phase
            [0, pi / 2], and tests the ranges above them (up to 5, and pi), so that they do not overlap.

    Raises:
        UserError: If a frequency is not positive, or the lowest is above the highest.

    Source: Finn et al. 2017, section 5.1 (frequency 1; their code subtracts the phase); Baik et al. 2020, section 4.2
    and appendix C.1 (frequency 0.8 to 1.2).
    """

    num_inputs = 1
    defaults: Mapping[str, Any] = {**DEFAULTS, "shots": 10, "queries": 10}

    def __init__(self, lowest_frequency: float = 1.0, highest_frequency: float = 1.0, shifted: bool = False) -> None:
        lowest = positive("lowest_frequency", lowest_frequency)
        highest = positive("highest_frequency", highest_frequency)
        if lowest > highest:
            raise UserError(
                f"lowest_frequency must be at most highest_frequency, got {lowest_frequency} and {highest_frequency}."
            )
        self._shifted = flag("shifted", shifted)
        self._low = np.array([0.1, lowest, 0.0])
        self._high = np.array([5.0, highest, np.pi])
        self._middle = np.array([3.0, (lowest + highest) / 2, np.pi / 2])
        self.task_space = spaces.Box(self._low, self._high, dtype=np.float64)

    def draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> NDArray[Any]:
        low, high = self._low, self._high
        if self._shifted:
            low, high = (self._middle, high) if split == "test" else (low, self._middle)
        return rng.uniform(low, high, (n, 3))

    def draw(self, task: Any, n: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        inputs = rng.uniform(-INPUT_BOUND, INPUT_BOUND, (n, 1))
        return inputs, self.function(task, inputs)

    def function(self, task: Any, x: FloatArray) -> FloatArray:
        return sinusoid(task, x)

    def describe_task(self, task: Any) -> str:
        amplitude, frequency, phase = task
        x = "x" if frequency == 1 else f"{frequency:.2f} x"
        return f"{amplitude:.2f} sin({x} + {phase:.2f})"


def sinusoid(parameters: Sequence[float], x: FloatArray) -> FloatArray:
    """Amplitude sin(frequency x + phase)."""
    amplitude, frequency, phase = parameters
    return amplitude * np.sin(frequency * x + phase)


def _line(parameters: Sequence[float], x: FloatArray) -> FloatArray:
    slope, offset, _ = parameters
    return slope * x + offset


def _quadratic(parameters: Sequence[float], x: FloatArray) -> FloatArray:
    curvature, centre, offset = parameters
    return curvature * (x - centre) ** 2 + offset


def _absolute(parameters: Sequence[float], x: FloatArray) -> FloatArray:
    slope, centre, offset = parameters
    return slope * np.abs(x - centre) + offset


def _shifted_tanh(parameters: Sequence[float], x: FloatArray) -> FloatArray:
    scale, centre, offset = parameters
    return scale * np.tanh(x - centre) + offset


_FUNCTIONS: Mapping[str, tuple[Any, tuple[float, ...], tuple[float, ...]]] = {
    "sinusoid": (sinusoid, (0.1, 0.5, 0.0), (5.0, 2.0, 2 * np.pi)),
    "line": (_line, (-3.0, -3.0, 0.0), (3.0, 3.0, 0.0)),
    "quadratic": (_quadratic, (0.02, -3.0, -3.0), (0.15, 3.0, 3.0)),
    "tanh": (_shifted_tanh, (-3.0, -3.0, -3.0), (3.0, 3.0, 3.0)),
    "absolute": (_absolute, (-3.0, -3.0, -3.0), (3.0, 3.0, 3.0)),
}
"""Functions of (parameters, x), with the lowest and the highest value of each of their three parameters.

A quadratic's curvature also takes the opposite sign.
"""


class MultimodalRegressionFamily(SupervisedFamily):
    """Functions of several kinds, observed with noise; a task is (kind, three parameters), every kind equally likely.

    Kinds in order: sinusoid a sin(w x + b), line a x + b, quadratic a (x - c)^2 + b, a tanh(x - c) + b and
    a |x - c| + b. Targets of support and query have Gaussian noise, so that no error falls below its variance.

    Args:
        kinds: How many of them, from the first on.
        noise: Standard deviation of the noise.
        released: Whether sinusoids have frequency 1 and phases in [0, pi], as in the authors' release, and not
            frequencies in [0.5, 2] and phases in [0, 2 pi], as in the paper.

    Raises:
        UserError: If an argument is out of range.

    Source: Vuorio et al. 2019, appendix A.1; tanh and absolute value as in the release of its successor (Vuorio et al.,
    Multimodal model-agnostic meta-learning via task-aware modulation, 2019).
    """

    num_inputs = 1
    defaults: Mapping[str, Any] = {**DEFAULTS, "hidden_sizes": (100, 100, 100), "meta_batch_size": 25}

    def __init__(self, kinds: int = 2, noise: float = 0.3, released: bool = False) -> None:
        kinds = whole_between(2, len(_FUNCTIONS))("kinds", kinds)
        self.num_modes, self._noise = kinds, not_negative("noise", noise)
        self._names = list(_FUNCTIONS)[:kinds]
        self._low, self._high = (np.array([_FUNCTIONS[name][i] for name in self._names]) for i in (1, 2))
        if flag("released", released):
            self._low[0, 1] = self._high[0, 1] = 1.0
            self._high[0, 2] = np.pi
        lowest = self._low.min(0)
        if kinds > self._quadratic:
            lowest[0] = min(lowest[0], -self._high[self._quadratic, 0])
        self.task_space = spaces.Box(
            np.array([0, *lowest]), np.array([kinds - 1, *self._high.max(0)]), dtype=np.float64
        )

    _quadratic = list(_FUNCTIONS).index("quadratic")

    def draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> NDArray[Any]:
        kind = rng.integers(self.num_modes, size=n)
        parameters = rng.uniform(self._low[kind], self._high[kind])
        signs = rng.choice([-1.0, 1.0], size=n)
        parameters[:, 0] *= np.where(kind == self._quadratic, signs, 1.0)
        return np.concatenate([kind[:, None], parameters], axis=1)

    def check_task(self, task: Any) -> None:
        super().check_task(task)
        if task[0] != int(task[0]):
            raise UserError(f"{task} is no task of {self.name}: its first number, the kind, must be whole.")

    def modes(self, tasks: NDArray[Any]) -> IntArray:
        return tasks[:, 0].astype(int)

    def draw(self, task: Any, n: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        inputs = rng.uniform(-INPUT_BOUND, INPUT_BOUND, (n, 1))
        return inputs, self.function(task, inputs) + self._noise * rng.standard_normal((n, 1))

    def function(self, task: Any, x: FloatArray) -> FloatArray:
        function = _FUNCTIONS[self._names[int(task[0])]][0]
        return function(task[1:], x)

    def describe_task(self, task: Any) -> str:
        return f"{self._names[int(task[0])]} with parameters " + ", ".join(f"{value:.2f}" for value in task[1:])
