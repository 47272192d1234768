"""Reference agents: trained agents that come with the package, each a run's folder with its last checkpoint."""

from __future__ import annotations

from pathlib import Path

from metarl.common.errors import UserError, nearest

REFERENCES = Path(__file__).resolve().parents[1] / "reference"
_PREFIX = "reference:"
_RESULTS = Path("runs/reference")


def reference_names() -> list[str]:
    """Names of the reference agents, in alphabetical order."""
    return sorted(path.parent.name for path in REFERENCES.glob("*/config.json"))


def run_folder(run: Path) -> Path:
    """The folder that holds a run.

    Args:
        run: The folder itself, or ``reference:NAME`` for a reference agent.

    Raises:
        UserError: If there is no such reference agent.
    """
    if not str(run).startswith(_PREFIX):
        return run
    name, names = str(run).removeprefix(_PREFIX), reference_names()
    if name not in names:
        raise UserError(
            f"there is no reference agent {name!r}.{nearest(name, names)} `python -m metarl.evaluate --list` names all."
        )
    return REFERENCES / name


def results_folder(folder: Path) -> Path:
    """Where evaluations and analyses of the run in ``folder`` are written.

    That is the folder itself, but for a reference agent, which stays as it came, ``runs/reference/NAME``.
    """
    return _RESULTS / folder.name if folder.resolve().parent == REFERENCES else folder


def named(folder: Path) -> str:
    """How a user writes the run in ``folder``: ``reference:NAME`` for a reference agent, else the folder."""
    return f"{_PREFIX}{folder.name}" if folder.resolve().parent == REFERENCES else str(folder)
