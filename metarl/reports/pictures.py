"""Picture files: whether they can be written, and writing them whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from metarl.common.errors import UserError
from metarl.common.files import reason, replacing, unwritable
from metarl.config.checked import convert

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")


def checked_picture(output: str | Path) -> Path:
    """The path of a picture that can be written; to be asked before anything is computed.

    Raises:
        UserError: If the suffix is not supported, or if the file cannot be written.
    """
    picture: Path = convert("output", output, Path)
    if picture.suffix.lower() not in SUFFIXES:
        raise UserError(f"cannot write '{picture}': the picture's name must end in {', '.join(SUFFIXES)}.")
    if why := unwritable(picture):
        raise UserError(f"cannot write '{picture}': {why}.")
    return picture


def save_picture(figure: Figure, picture: Path) -> None:
    """Writes a figure; a picture of before stays whole until the new one is.

    Raises:
        UserError: If it cannot be written.
    """
    try:
        picture.parent.mkdir(parents=True, exist_ok=True)
        with replacing(picture) as file:
            figure.savefig(file, dpi=200, format=picture.suffix.lower()[1:])
    except OSError as error:
        raise UserError(f"cannot write '{picture}': {reason(error)}.") from error
