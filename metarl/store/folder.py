"""Paths of the files in a run's folder."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from metarl.common.errors import UserError
from metarl.common.files import WRITING, reason
from metarl.config.checked import BoolOrAuto
from metarl.config.measuring import EvaluationConfig


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, which need not exist yet.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The settings, and the software and hardware of the run."""
        return self.path / "config.json"

    @property
    def lock(self) -> Path:
        """Names the process that trains in the folder, while it does."""
        return self.path / "lock"

    @property
    def progress(self) -> Path:
        """The numbers of each iteration."""
        return self.path / "progress.csv"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's events."""
        return self.path / "tensorboard"

    def analysis(self, checkpoint: str) -> Path:
        """Folder of the analysis and its figures; its name contains the checkpoint unless that is the last."""
        return self.path / ("analysis" if checkpoint == "last" else f"analysis-{checkpoint}")

    @property
    def recording(self) -> Path:
        """Folder of videos and of the figure of trajectories."""
        return self.path / "recording"

    def trace(self, iteration: int) -> Path:
        """The profiler's trace of an iteration; TensorBoard's plugin needs this suffix."""
        return self.path / f"iteration{iteration}.pt.trace.json.gz"

    def checkpoint(self, which: str) -> Path:
        """The checkpoint ``last``, ``previous`` (the one before), ``best`` or ``iterationN``."""
        return self.path / "checkpoints" / f"{which}.safetensors"

    def kept_iterations(self) -> list[int]:
        """Iterations whose checkpoints were kept, in ascending order."""
        names = [path.stem for path in (self.path / "checkpoints").glob("iteration*.safetensors")]
        return sorted(int(match[1]) for name in names if (match := re.fullmatch(r"iteration(\d+)", name)))

    def evaluation(self, config: EvaluationConfig, sweep: bool = False) -> Path:
        """The evaluation, or the ``sweep`` of evaluations with several numbers of episodes.

        The name contains the checkpoint, the family, the layers and the factors if they are not the default.
        """
        parts = ["evaluation"]
        if config.checkpoint != "last":
            parts.append(config.checkpoint)
        if config.env is not None:
            parts.append(config.env.replace(":", "."))
        if config.adapted_layers:
            parts += ["adapting", *config.adapted_layers]
        if config.step_scales:
            parts += ["scales", *(repr(scale).removesuffix(".0") for scale in config.step_scales)]
        if sweep:
            parts.append("sweep")
        return self.path / ("-".join(parts) + ".json")

    def is_empty(self) -> bool:
        """Whether the folder exists and holds at most what a run leaves that was stopped before its first checkpoint.

        Such a run has done nothing yet, so it can begin again.
        """
        files = (path for path in self.path.rglob("*") if not path.is_dir())
        return self.path.is_dir() and all(path in (self.lock, self.config) or path.suffix == WRITING for path in files)

    def holds_run(self) -> bool:
        """Whether the folder holds the settings of a run.

        Raises:
            UserError: If the folder may not be entered.
        """
        try:
            return stat.S_ISREG(os.stat(self.config).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise UserError(f"cannot look into {self.path}: {reason(error)}.") from error

    def begins(self, resume: BoolOrAuto) -> bool:
        """Whether a run begins in the folder; with ``resume`` True only if it exists, because of typing errors.

        Raises:
            UserError: If the folder may not be entered.
        """
        self.holds_run()  # Refuses a folder that may not be entered, of which nothing else is known.
        return self.is_empty() or (resume is not True and not self.path.exists())

    def taken(self) -> UserError:
        """The error to raise if the folder holds what a new run must not touch."""
        if self.holds_run():
            return UserError(
                f"{self.path} holds a run; continue it with resume (--resume), or choose another run_dir (--run-dir)."
            )
        return UserError(f"{self.path} exists and is not an empty folder; choose another run_dir (--run-dir).")

    def tidy(self) -> None:
        """Removes files that were not complete when an earlier process was stopped."""
        names = (f"{self.config.name}.*", f"{self.progress.name}.*", "checkpoints/*", f"{self.tensorboard.name}/*")
        for path in [path for name in names for path in self.path.glob(name + WRITING)]:
            path.unlink()

    def refusal(self, error: OSError) -> UserError:
        """The error to raise if the folder cannot be written at the start."""
        return UserError(f"cannot write into {self.path}: {reason(error)}; choose another run_dir (--run-dir).")


def aside(path: Path) -> Path:
    """Where a damaged file is kept."""
    return path.with_name(f"{path.name}.damaged")
