"""Turns the bytes of a picture into pixels, and says what is wrong with bytes that are none."""

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

Pixels = npt.NDArray[np.uint8]

MAX_PIXELS = 50_000_000
"""The largest picture that is decoded: 150 MB of pixels."""

# Named one by one because Pillow also knows formats that start a program (EPS) or that nobody photographs in.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")

# Pillow's own limit only warns at first; ours, checked below, refuses.
Image.MAX_IMAGE_PIXELS = None


class PictureError(ValueError):
    """What was sent cannot be used as a picture."""


class NotAPicture(PictureError):
    """The bytes are of no picture format that is read here."""


class UnreadablePicture(PictureError):
    """The bytes begin like a picture but are damaged."""


class PictureTooLarge(PictureError):
    """The picture has more pixels than are allowed."""


def read_picture(data: memoryview | bytes) -> Pixels:
    """Decode a picture and turn it upright as its EXIF orientation says.

    Args:
        data: The bytes of the file.

    Returns:
        Height x width x 3 bytes, in the order blue, green, red that OpenCV and the models expect.

    Raises:
        NotAPicture: The bytes are of no format that is read here.
        UnreadablePicture: The picture is damaged.
        PictureTooLarge: It has more than `MAX_PIXELS` pixels; nothing was decoded.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise NotAPicture(f"not a picture; formats that are read: {', '.join(FORMATS)}") from None
    except Exception as error:
        raise UnreadablePicture(f"the picture is damaged: {error}") from None
    if image.width * image.height > MAX_PIXELS:
        raise PictureTooLarge(f"{image.width} x {image.height} pixels; {MAX_PIXELS} are allowed")
    try:
        upright = _opaque(ImageOps.exif_transpose(image))
    except Exception as error:  # damaged files make the decoders raise nearly anything: OSError, SyntaxError, KeyError
        raise UnreadablePicture(f"the picture is damaged: {error}") from None
    return np.frombuffer(upright.tobytes("raw", "BGR"), np.uint8).reshape(upright.height, upright.width, 3)


def _opaque(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    # Dark text on nothing is common on the web; on black, which is what convert() puts there, nobody could read it.
    paper = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB")
