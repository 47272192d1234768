"""Films: episodes side by side, with captions, as GIF and MP4."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

from metarl.common.files import replacing
from metarl.reports.episodes import HEIGHT, PANELS_IN_ROW, Episode

_MARGIN = 8
_LINE = 24
_SIZE_OF_TEXT = 16
_SMALLEST_TEXT = 8
_INK, _PAPER = (30, 30, 30), (255, 255, 255)
# Colours of a GIF, which has at most 256 in all.
_COLOURS = 255
_SECONDS_AT_THE_END = 2


class Film:
    """Episodes side by side; one that has ended shows its last picture.

    Args:
        caption: The heading of all.
        episodes: The episodes, with pictures.
        rate: Pictures a second.
    """

    def __init__(self, caption: str, episodes: Sequence[Episode], rate: float) -> None:
        self._caption, self._episodes, self._rate = caption, episodes, rate
        self._columns = min(len(episodes), PANELS_IN_ROW)
        rows = math.ceil(len(episodes) / self._columns)
        self._width = max(episode.pictures[0].shape[1] for episode in episodes)
        self._row = HEIGHT + 2 * _LINE + _MARGIN
        size = (self._columns * (self._width + _MARGIN) + _MARGIN, _MARGIN + _LINE + rows * self._row)
        # Encoders of video ask for even numbers.
        self._size = (size[0] + size[0] % 2, size[1] + size[1] % 2)

    def __len__(self) -> int:
        return max(len(episode.pictures) for episode in self._episodes)

    def picture(self, number: int) -> Image.Image:
        """All episodes at one time, each under its title, over the step and the return so far."""
        image = Image.new("RGB", self._size, _PAPER)
        draw = ImageDraw.Draw(image)
        _centred(draw, self._caption, self._size[0] / 2, _MARGIN + _LINE / 2, self._size[0] - 2 * _MARGIN)
        for panel, episode in enumerate(self._episodes):
            row, column = divmod(panel, self._columns)
            left, top = _MARGIN + column * (self._width + _MARGIN), _MARGIN + _LINE + row * self._row
            done = episode.steps_until(number)
            middle, state = left + self._width / 2, f"step {done}   return {episode.rewards[:done].sum():.1f}"
            _centred(draw, episode.title, middle, top + _LINE / 2, self._width)
            image.paste(Image.fromarray(episode.pictures[min(number, len(episode.pictures) - 1)]), (left, top + _LINE))
            _centred(draw, state, middle, top + _LINE + HEIGHT + _LINE / 2, self._width)
        return image

    def write_gif(self, path: Path) -> None:
        """Writes the film as a GIF that repeats.

        Raises:
            OSError: If it cannot be written.
        """
        palette = self.picture(len(self) // 2).quantize(_COLOURS)
        pictures = [
            self.picture(number).quantize(palette=palette, dither=Image.Dither.NONE) for number in range(len(self))
        ]
        # A GIF counts hundredths of a second; each picture rounded alone would change the pace.
        starts = np.round(np.arange(len(self)) * 100 / self._rate) * 10
        durations = [*np.diff(starts).tolist(), 1000 * _SECONDS_AT_THE_END]
        with replacing(path) as file:
            pictures[0].save(file, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)

    def write_mp4(self, path: Path) -> None:
        """Writes the film as an MP4 (H.264).

        Raises:
            OSError: If it cannot be written.
        """
        import imageio.v2

        numbers = [*range(len(self)), *[len(self) - 1] * round(_SECONDS_AT_THE_END * self._rate)]
        with replacing(path) as file:
            writer: Any = imageio.v2.get_writer(file, "mp4", fps=self._rate, codec="libx264", macro_block_size=2)
            with closing(writer):
                for number in numbers:
                    writer.append_data(np.asarray(self.picture(number)))


def can_write_mp4() -> bool:
    """Whether the encoder is installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("imageio", "imageio_ffmpeg"))


def _centred(draw: ImageDraw.ImageDraw, text: str, x: float, y: float, width: float) -> None:
    """Writes a line around a point, in a size in which it fits the width."""
    size = _SIZE_OF_TEXT
    while size > _SMALLEST_TEXT and draw.textlength(text, _font(size)) > width:
        size -= 1
    draw.text((x, y), text, _INK, _font(size), anchor="mm")


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(findfont("DejaVu Sans"), size)
