"""Reads lines of text."""

from collections import defaultdict

from rapidocr.ch_ppocr_rec import TextRecInput

from example_app.layout import Strip
from example_app.models import load_classifier, load_recogniser
from example_app.pictures import Pixels


class LineReader:
    """The orientation classifier and the recogniser, with their models loaded."""

    def __init__(self) -> None:
        self.classifier = load_classifier()
        # One line at a time: on a CPU several take longer, since the narrow ones are padded to the width of the widest.
        self.recogniser = load_recogniser(rec_batch_num=1)

    def turn_upright(self, strips: list[Strip]) -> list[Strip]:
        """Turn the lines of one picture that are upside down.

        Lines of the same direction are decided together, with a higher weight for long ones, because the classifier
        errs on short ones.
        """
        if not strips:
            return []
        votes: defaultdict[bool, float] = defaultdict(float)
        angles = self.classifier([strip.pixels for strip in strips]).cls_res or []
        for strip, (angle, score) in zip(strips, angles, strict=True):
            height, width = strip.pixels.shape[:2]
            votes[strip.sideways] += float(score) * width / height * (1 if angle == "180" else -1)
        return [strip.upside_down() if votes[strip.sideways] > 0 else strip for strip in strips]

    def read(self, strips: list[Pixels]) -> list[tuple[str, float]]:
        """Read lines in one call of the recogniser; return the text and the score of each."""
        if not strips:
            return []
        result = self.recogniser(TextRecInput(img=strips))
        return list(zip(result.txts or [], result.scores, strict=True))
