"""Decodes pictures, and explains why bytes are no usable picture."""

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

Pixels = npt.NDArray[np.uint8]

MAX_PIXELS = 50_000_000
"""The largest number of pixels that is decoded: 150 MB."""

# Listed, because Pillow also reads formats that start a program (EPS), and many that cameras do not write.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")

# Pillow's own limit only warns at first; MAX_PIXELS is checked below.
Image.MAX_IMAGE_PIXELS = None


class PictureError(ValueError):
    """The upload cannot be used as a picture."""


class NotAPicture(PictureError):
    """The bytes are of no supported picture format."""


class UnreadablePicture(PictureError):
    """The bytes start as a picture but are damaged."""


class PictureTooLarge(PictureError):
    """The picture has more than `MAX_PIXELS` pixels."""


def read_picture(data: memoryview | bytes) -> Pixels:
    """Decode a picture and rotate it by its EXIF orientation.

    Args:
        data: The bytes of the file.

    Returns:
        Height x width x 3 bytes, in the order blue, green, red that OpenCV and the models expect.

    Raises:
        NotAPicture: The bytes are of no supported format.
        UnreadablePicture: The picture is damaged.
        PictureTooLarge: The picture has more than `MAX_PIXELS` pixels; it is not decoded.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise NotAPicture(f"not a picture; supported formats: {', '.join(FORMATS)}") from None
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
    # Dark text on a transparent ground is common on the web; on black, which convert() puts there, it is invisible.
    paper = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB")
