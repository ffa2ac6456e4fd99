"""Finds the lines of text in a picture and cuts them out."""

import cv2
import numpy as np

from example_app.layout import Corners, Strip
from example_app.models import load_detector
from example_app.pictures import Pixels

LONGEST_SIDE = 1280
"""Longer side in pixels to which larger pictures are shrunk for the detector; lines are cut out of the full picture."""

SHORTEST_SIDE = 640
"""Longer side in pixels to which smaller pictures are enlarged for the detector."""

LINE_HEIGHT = 48
"""Height in pixels of the lines that the recogniser reads; higher strips are shrunk to it."""

SIDEWAYS = 1.5
"""Ratio of height to width from which a box is a line that runs down the picture."""


class LineFinder:
    """The detector, with its model loaded."""

    def __init__(self) -> None:
        self.detector = load_detector(limit_type="max", limit_side_len=LONGEST_SIDE)

    def find(self, pixels: Pixels) -> list[Strip]:
        """Find the lines of text in a picture and cut them out."""
        sized, scale = _resized(pixels)
        boxes = self.detector(sized).boxes
        if boxes is None:
            return []
        return [cut_out(pixels, (box / scale).astype(np.float32)) for box in boxes]


def _resized(pixels: Pixels) -> tuple[Pixels, float]:
    height, width = pixels.shape[:2]
    longest = max(height, width)
    wanted = min(max(longest, SHORTEST_SIDE), LONGEST_SIDE)
    if wanted == longest:
        return pixels, 1.0
    scale = wanted / longest
    # The detector's network needs multiples of 32, and rounds a side below 16 down to 0.
    size = (max(16, round(width * scale)), max(16, round(height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, size, interpolation=method), np.uint8), scale


def cut_out(pixels: Pixels, box: Corners) -> Strip:
    """Cut a line out of a picture and straighten it.

    Args:
        pixels: The picture.
        box: Corners of the line, clockwise from the top left of the picture.
    """
    width, height = _size(box)
    sideways = height >= SIDEWAYS * width
    if sideways:
        box = np.roll(box, -1, axis=0)
        width, height = height, width
    target = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
    strip = cv2.warpPerspective(
        pixels,
        cv2.getPerspectiveTransform(box, target),
        (width, height),
        flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REPLICATE,
    )
    if height > LINE_HEIGHT:
        shrunk = (max(1, round(width * LINE_HEIGHT / height)), LINE_HEIGHT)
        strip = cv2.resize(strip, shrunk, interpolation=cv2.INTER_AREA)
    return Strip(np.asarray(strip, np.uint8), box, sideways)


def _size(box: Corners) -> tuple[int, int]:
    top_left, top_right, bottom_right, bottom_left = box
    width = max(np.linalg.norm(top_right - top_left), np.linalg.norm(bottom_right - bottom_left))
    height = max(np.linalg.norm(bottom_left - top_left), np.linalg.norm(bottom_right - top_right))
    return max(1, int(width)), max(1, int(height))
