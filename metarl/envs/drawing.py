"""A small canvas with antialiased shapes, in NumPy."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from metarl.common.arrays import FloatArray

Colour = tuple[int, int, int]
PIXELS = 256


class Canvas:
    """A square picture of the plane around the origin, y upwards, with axes and a light grid.

    Args:
        extent: The picture shows [-extent, extent]^2.
    """

    def __init__(self, extent: float) -> None:
        self._scale = PIXELS / (2 * extent)
        self._image = np.full((PIXELS, PIXELS, 3), 250.0)
        spacing = 10.0 ** np.floor(np.log10(extent))
        for line in np.arange(-np.floor(extent / spacing), np.floor(extent / spacing) + 1) * spacing:
            row, column = self._pixel(np.array([line, line])).astype(int)
            shade = 205.0 if line == 0 else 233.0
            self._image[row] = np.minimum(self._image[row], shade)
            self._image[:, column] = np.minimum(self._image[:, column], shade)

    def disc(self, centre: FloatArray, radius: float, colour: Colour) -> None:
        """Draws a filled disc; radius in pixels."""
        self._segment(centre, centre, radius, colour)

    def ring(self, centre: FloatArray, radius: float, width: float, colour: Colour) -> None:
        """Draws a circle; radius and width in pixels."""
        self._segment(centre, centre, radius, colour, hollow=radius - width)

    def trail(self, points: Sequence[FloatArray], radius: float, colour: Colour) -> None:
        """Draws a line through points; radius is half of its width, in pixels."""
        for start, end in pairwise(points):
            self._segment(start, end, radius, colour)

    def image(self) -> NDArray[np.uint8]:
        """The picture, [256, 256, 3], red, green and blue."""
        return self._image.round().astype(np.uint8)

    def _pixel(self, point: FloatArray) -> FloatArray:
        """Row and column of a point, as fractions of pixels."""
        return PIXELS / 2 + self._scale * np.array([-point[1], point[0]])

    def _segment(self, start: FloatArray, end: FloatArray, radius: float, colour: Colour, hollow: float = 0.0) -> None:
        """Draws all points within ``radius`` pixels of a segment, but not those within ``hollow`` pixels."""
        a, b = self._pixel(start), self._pixel(end)
        low = np.clip(np.floor(np.minimum(a, b) - radius - 1), 0, PIXELS).astype(int)
        high = np.clip(np.ceil(np.maximum(a, b) + radius + 2), 0, PIXELS).astype(int)
        window = self._image[low[0] : high[0], low[1] : high[1]]
        # Distance of each pixel to its projection on the segment. The cover falls from 1 to 0 within one pixel.
        pixels = np.moveaxis(np.mgrid[low[0] : high[0], low[1] : high[1]], 0, -1) - a
        along = b - a
        share = np.clip(pixels @ along / max(float(along @ along), 1e-12), 0, 1)
        distance = np.linalg.norm(pixels - share[..., None] * along, axis=-1)
        cover = np.clip(radius + 0.5 - distance, 0, 1)
        if hollow > 0:
            cover *= np.clip(distance - hollow + 0.5, 0, 1)
        window += cover[..., None] * (np.array(colour) - window)
