"""Strips of text and their reading order, for any rotation of the picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
import numpy.typing as npt

from example_app.pictures import Pixels

Corners = npt.NDArray[np.float32]
"""Four points (x, y) in pixels of the picture, clockwise from the top left corner of the text."""


@dataclass(frozen=True, slots=True)
class Strip:
    """A line of text, cut out of a picture and straightened, not yet read.

    Attributes:
        pixels: The pixels of the line.
        corners: Its place in the picture.
        sideways: Whether it runs down the picture instead of across.
    """

    pixels: Pixels
    corners: Corners
    sideways: bool

    def upside_down(self) -> "Strip":
        """Return the same line rotated by 180 degrees."""
        turned = np.ascontiguousarray(self.pixels[::-1, ::-1])
        return Strip(turned, np.roll(self.corners, 2, axis=0), self.sideways)


def reading_order(lines: Sequence[Corners]) -> list[int]:
    """Sort lines from top to bottom and in each row from left to right, in the direction of the text.

    Args:
        lines: The place of each line.

    Returns:
        Positions in `lines`, in reading order.
    """
    if not lines:
        return []
    corners = np.stack(lines)
    along = (corners[:, 1] - corners[:, 0]).sum(axis=0)
    along /= max(float(np.linalg.norm(along)), 1e-6)
    down = np.array([-along[1], along[0]])
    centres = corners.mean(axis=1)
    heights = np.linalg.norm(corners[:, 3] - corners[:, 0], axis=1)
    places = zip((centres @ down).tolist(), (centres @ along).tolist(), heights.tolist(), strict=True)
    rows: list[list[tuple[int, float]]] = []
    last_depth = last_height = 0.0
    for index, (depth, offset, height) in sorted(enumerate(places), key=itemgetter(1)):
        # Lines of one row are never exactly level: they share a row if they overlap by more than half.
        if not rows or depth - last_depth > 0.5 * min(height, last_height):
            rows.append([])
            last_depth, last_height = depth, height
        rows[-1].append((index, offset))
    return [index for row in rows for index, _ in sorted(row, key=itemgetter(1))]
