"""Draws the sample pictures of the example application, and lists the words on them.

Run ``python -m example_app.draw_samples`` to draw them again. Random numbers have fixed seeds and the font is Pillow's
own, so that the pictures do not depend on the machine.
"""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont, ImageOps

SAMPLES = Path(__file__).parent / "samples"
THUMBNAILS = SAMPLES / "thumbnails"

Point = tuple[float, float]
EXIF_ORIENTATION = 0x0112


class Sample(NamedTuple):
    """One picture, its title, and the words on it."""

    title: str
    image: Image.Image
    words: list[str]
    exif: Image.Exif | None = None


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the scalable font of Pillow, which needs no system font."""
    return ImageFont.load_default(size)


class Sheet:
    """A flat sheet with text; keeps a list of its words."""

    def __init__(self, size: tuple[int, int], colour: str) -> None:
        self.image = Image.new("RGB", size, colour)
        self.draw = ImageDraw.Draw(self.image)
        self.words: list[str] = []

    def write(self, text: str, at: Point, size: int, ink: str = "#26241f", anchor: str = "la", bold: int = 0) -> None:
        """Write one line of text."""
        self.draw.text(at, text, ink, font(size), anchor, stroke_width=bold)
        self.words += text.split()


def photograph(sheet: Image.Image, scene: Image.Image, corners: Sequence[Point], seed: int) -> Image.Image:
    """Put `sheet` into `scene` with its corners at `corners`, and take a picture of it in uneven light."""
    coefficients = perspective(corners, sheet.size)
    laid = sheet.transform(scene.size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BICUBIC)
    white = Image.new("L", sheet.size, 255)
    mask = white.transform(scene.size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BICUBIC)
    shadow = ImageChops.offset(mask, 14, 22).filter(ImageFilter.GaussianBlur(18)).point(lambda level: level * 0.55)
    picture = Image.composite(Image.new("RGB", scene.size, "#0c0a08"), scene, shadow)
    picture.paste(laid, mask=mask)
    return grain(light(picture), seed)


def perspective(corners: Sequence[Point], size: tuple[int, int]) -> list[float]:
    """Return Pillow's 8 coefficients that map `corners` (clockwise from the top left) to those of a sheet of `size`."""
    width, height = size
    rows, targets = [], []
    for (x, y), (u, v) in zip(corners, [(0, 0), (width, 0), (width, height), (0, height)], strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        targets += [u, v]
    solved: list[float] = np.linalg.solve(np.array(rows, float), np.array(targets, float)).tolist()
    return solved


def light(picture: Image.Image) -> Image.Image:
    """Light a picture from the top left, with a soft shadow of the photographer at the bottom right."""
    width, height = picture.size
    x, y = np.meshgrid(np.linspace(0, 1, width, dtype=np.float32), np.linspace(0, 1, height, dtype=np.float32))
    level = 1.06 - 0.30 * (0.45 * x + 0.55 * y)
    level -= 0.16 / (1 + np.exp(-(x * 0.8 + y - 1.25) * 16))
    return Image.fromarray((np.asarray(picture) * level[..., None]).clip(0, 255).astype(np.uint8))


def grain(picture: Image.Image, seed: int, strength: float = 5.0) -> Image.Image:
    """Add the noise of a sensor and the blur of a small lens."""
    pixels = np.asarray(picture.filter(ImageFilter.GaussianBlur(0.6)), np.float32)
    noise = np.random.default_rng(seed).normal(0, strength, pixels.shape[:2]).astype(np.float32)
    return Image.fromarray((pixels + noise[..., None]).clip(0, 255).astype(np.uint8))


def wood(size: tuple[int, int], colour: Sequence[int], seed: int) -> Image.Image:
    """Draw a table top: long streaks of slightly different shades."""
    width, height = size
    streaks = np.random.default_rng(seed).normal(0, 13, (height, max(2, width // 160))).astype(np.float32)
    field = Image.fromarray(streaks).resize(size, Image.Resampling.BICUBIC)
    pixels = np.asarray(colour, np.float32) + np.asarray(field)[..., None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1.5))


def bricks(size: tuple[int, int], seed: int) -> Image.Image:
    """Draw a brick wall."""
    random = np.random.default_rng(seed)
    wall = Image.new("RGB", size, "#b3a796")
    draw = ImageDraw.Draw(wall)
    for row, top in enumerate(range(0, size[1], 58)):
        for left in range(-(row % 2) * 70, size[0], 140):
            shade = int(random.integers(-18, 18))
            draw.rounded_rectangle((left + 4, top + 4, left + 136, top + 54), 4, (142 + shade, 78 + shade, 62 + shade))
    return wall.filter(ImageFilter.GaussianBlur(1.2))


def receipt() -> Sample:
    """A till receipt on a table, photographed at an angle."""
    sheet = Sheet((720, 1180), "#f6f4ee")
    sheet.write("GREEN CORNER MARKET", (360, 60), 48, anchor="ma", bold=1)
    sheet.write("27 Harbour Street", (360, 126), 34, anchor="ma")
    sheet.write("Receipt 004821", (60, 210), 34)
    sheet.write("14.03.2025", (660, 210), 34, anchor="ra")
    sheet.draw.line((60, 270, 660, 270), "#26241f", 3)
    items = [("Oat milk", "2.49"), ("Rye bread", "3.80"), ("Tomatoes", "4.15"), ("Olive oil", "8.90"),
             ("Dark chocolate", "2.75"), ("Coffee beans", "11.60")]
    for row, (item, price) in enumerate(items):
        sheet.write(item, (60, 300 + row * 64), 38)
        sheet.write(price, (660, 300 + row * 64), 38, anchor="ra")
    sheet.draw.line((60, 700, 660, 700), "#26241f", 3)
    sheet.write("TOTAL", (60, 728), 54, bold=1)
    sheet.write("33.69", (660, 728), 54, anchor="ra", bold=1)
    sheet.write("Paid by card", (60, 824), 36)
    sheet.write("VAT 7%", (60, 884), 36)
    sheet.write("2.20", (660, 884), 36, anchor="ra")
    sheet.write("Thank you for your visit", (360, 1010), 38, anchor="ma")
    scene = wood((1200, 1600), (122, 86, 58), seed=11)
    corners = [(238, 132), (948, 96), (1022, 1470), (156, 1508)]
    return Sample("Receipt", photograph(sheet.image, scene, corners, seed=1), sheet.words)


def letter() -> Sample:
    """A typed letter, slightly askew."""
    sheet = Sheet((1100, 1500), "#fbfaf6")
    sheet.write("Northwind Library", (110, 110), 52, "#1d3557", bold=1)
    sheet.write("Reading Room Services", (110, 178), 32, "#1d3557")
    sheet.write("8 September 2025", (990, 290), 32, anchor="ra")
    paragraphs = [
        "Dear Ms Lindqvist,",
        "",
        "Thank you for returning the atlas of coastal",
        "charts. Our binder has repaired the spine and",
        "the volume is again open to every visitor.",
        "",
        "You asked whether the maps may be copied.",
        "We gladly allow photographs without flash, and",
        "prints can be ordered at the front desk on any",
        "weekday between nine and half past four.",
        "",
        "A second volume is expected in November. We",
        "will write as soon as it stands on the shelf.",
        "",
        "With kind regards,",
        "",
        "Tobias Engel",
        "Head Librarian",
    ]
    for row, text in enumerate(paragraphs):
        if text:
            sheet.write(text, (110, 400 + row * 54), 38)
    scene = wood((1300, 1760), (58, 66, 74), seed=12)
    corners = [(86, 128), (1196, 84), (1238, 1652), (122, 1690)]
    return Sample("Letter", photograph(sheet.image, scene, corners, seed=2), sheet.words)


def sign() -> Sample:
    """An enamel sign on a brick wall."""
    sheet = Sheet((1000, 520), "#0f4c81")
    sheet.draw.rounded_rectangle((18, 18, 982, 502), 26, outline="#f2f2ea", width=8)
    sheet.write("CITY  MUSEUM", (500, 70), 112, "#f7f7f0", "ma", bold=2)
    sheet.write("Entrance on Mill Lane", (500, 240), 64, "#f7f7f0", "ma")
    sheet.write("Open 10:00 - 18:00", (500, 366), 64, "#ffd166", "ma", bold=1)
    corners = [(176, 210), (1188, 132), (1204, 706), (164, 652)]
    return Sample("Sign", photograph(sheet.image, bricks((1360, 860), seed=13), corners, seed=3), sheet.words)


def rotated() -> Sample:
    """A parcel label photographed from the side: the text runs up the picture, slightly askew."""
    sheet = Sheet((1000, 640), "#f7f2e4")
    sheet.draw.rectangle((14, 14, 986, 626), outline="#26241f", width=5)
    sheet.write("EXPRESS PARCEL", (60, 60), 68, "#a4161a", bold=2)
    sheet.write("Deliver to", (60, 180), 40)
    sheet.write("Amelia Okafor", (60, 240), 58, bold=1)
    sheet.write("112 Orchard Avenue", (60, 320), 48)
    sheet.write("Bristol", (60, 390), 48)
    sheet.write("Weight 4.2 kg", (60, 510), 44)
    sheet.write("Handle with care", (940, 510), 44, anchor="ra")
    scene = wood((1400, 1000), (176, 142, 102), seed=14)
    corners = [(170, 160), (1220, 130), (1236, 836), (180, 800)]
    turned = photograph(sheet.image, scene, corners, seed=4).rotate(94, Image.Resampling.BICUBIC, expand=True)
    inside = turned.crop((110, 110, turned.width - 110, turned.height - 110))
    return Sample("Rotated", inside, sheet.words)


def phone() -> Sample:
    """A note as a phone stores it: the picture lies on its side, which only its EXIF orientation shows."""
    sheet = Sheet((760, 760), "#ffe66d")
    sheet.write("Remember", (60, 70), 84, "#3d348b", bold=2)
    for row, text in enumerate(["Water the plants", "Call the plumber", "Book train tickets", "Birthday cake Friday"]):
        sheet.write(text, (60, 230 + row * 116), 62)
    scene = wood((1000, 1200), (205, 200, 190), seed=15)
    corners = [(128, 196), (868, 166), (902, 966), (108, 940)]
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    upright = photograph(sheet.image, scene, corners, seed=5)
    return Sample("Phone", upright.transpose(Image.Transpose.ROTATE_90), sheet.words, exif)


def large() -> Sample:
    """A timetable board in 12 megapixels, with small text on a large picture."""
    sheet = Sheet((3400, 2400), "#1b263b")
    sheet.write("DEPARTURES", (140, 120), 190, "#ffd166", bold=4)
    sheet.write("Central Station", (3260, 160), 120, "#e0e1dd", "ra")
    rows = [("08:05", "Aberdeen", "Platform 4", "On time"), ("08:17", "Cardiff", "Platform 11", "Delayed"),
            ("08:32", "Edinburgh", "Platform 2", "On time"), ("08:40", "Liverpool", "Platform 7", "Boarding"),
            ("08:56", "Norwich", "Platform 9", "Cancelled"), ("09:10", "Penzance", "Platform 5", "On time")]
    for row, (time, town, platform, state) in enumerate(rows):
        top = 500 + row * 260
        sheet.draw.line((140, top - 50, 3260, top - 50), "#415a77", 6)
        for text, left in zip((time, town, platform, state), (140, 760, 1660, 2560), strict=True):
            sheet.write(text, (left, top), 120, "#e0e1dd")
    sheet.write("Please keep your luggage with you at all times", (1700, 2180), 84, "#ffd166", "ma")
    scene = wood((4000, 3000), (150, 152, 156), seed=16).filter(ImageFilter.GaussianBlur(6))
    corners = [(270, 260), (3700, 330), (3650, 2700), (320, 2760)]
    return Sample("Large", photograph(sheet.image, scene, corners, seed=6), sheet.words)


def tiny() -> Sample:
    """A price tag cut out of a larger picture, hardly higher than its line of text."""
    sheet = Sheet((160, 40), "#fffdf5")
    sheet.write("Apples  1.95", (80, 20), 22, anchor="mm")
    return Sample("Tiny", grain(sheet.image, seed=7, strength=3), sheet.words)


PICTURES = {
    "receipt.jpg": receipt,
    "letter.jpg": letter,
    "sign.jpg": sign,
    "rotated.jpg": rotated,
    "phone.jpg": phone,
    "large.jpg": large,
    "tiny.png": tiny,
}


def draw_thumbnail(path: Path) -> Image.Image:
    """Return the upper part of a picture, or all of one that is hardly higher than a line of text."""
    picture = ImageOps.exif_transpose(Image.open(path))
    size = (240, 180)
    if picture.width > 2 * picture.height:
        return ImageOps.pad(picture, size, Image.Resampling.LANCZOS, "#fffdf5")
    return ImageOps.fit(picture, size, Image.Resampling.LANCZOS, centering=(0.5, 0.2))


def main() -> None:
    """Draw every sample with a thumbnail for the page, and save its words."""
    THUMBNAILS.mkdir(parents=True, exist_ok=True)
    index = {}
    for name, draw in PICTURES.items():
        sample = draw()
        sample.image.save(SAMPLES / name, quality=82, optimize=True, exif=sample.exif or Image.Exif())
        draw_thumbnail(SAMPLES / name).save((THUMBNAILS / name).with_suffix(".jpg"), quality=80, optimize=True)
        index[name] = {"title": sample.title, "words": sample.words}
        print(f"{name}: {sample.image.width} x {sample.image.height}, {len(sample.words)} words")
    (SAMPLES / "samples.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
