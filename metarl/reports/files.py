"""Files that reports write: whether they can be written, and writing them whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from metarl.common.errors import UserError
from metarl.common.files import reason, replacing, unwritable
from metarl.config.checked import convert

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = (".png", ".svg", ".pdf")


def checked_file(output: str | Path, what: str, suffixes: Sequence[str]) -> Path:
    """The path of a file that can be written; to be asked before anything is computed.

    Args:
        output: The path.
        what: What the file is, in a message: "picture".
        suffixes: The suffixes that are supported, in small letters.

    Raises:
        UserError: If the suffix is not supported, or if the file cannot be written.
    """
    path: Path = convert("output", output, Path)
    if path.suffix.lower() not in suffixes:
        raise UserError(f"cannot write '{path}': the {what}'s name must end in {', '.join(suffixes)}.")
    if why := unwritable(path):
        raise UserError(f"cannot write '{path}': {why}.")
    return path


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file to write into, in a folder that is made if need be; the file of before stays whole until it is written.

    Raises:
        UserError: If it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            yield file
    except OSError as error:
        raise UserError(f"cannot write '{path}': {reason(error)}.") from error


def take_literally(figure: Figure) -> None:
    """Lets dollars in labels be dollars: settings of a family may hold any text, and matplotlib would read formulas."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        if "$" in (words := text.get_text()) and r"\mathdefault" not in words:  # Of a logarithmic axis.
            text.set_parse_math(False)


def save_picture(figure: Figure, picture: Path) -> None:
    """Writes a figure.

    Raises:
        UserError: If it cannot be written.
    """
    take_literally(figure)
    with writing(picture) as file:
        figure.savefig(file, dpi=200, format=picture.suffix.lower()[1:])
