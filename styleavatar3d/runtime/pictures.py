"""Opening picture files that anybody may have made: bounded, decoded whole, eight bits a channel."""

import warnings
from io import BytesIO
from pathlib import Path

import numpy
from PIL import Image, ImageOps, UnidentifiedImageError

from styleavatar3d.errors import StyleAvatarError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""decoded in this process; others may call programs"""
MOST_PIXELS = 64_000_000


def open_picture(source: Path | BytesIO, name: str) -> Image.Image:
    """The decoded picture in its own colour mode, not yet turned by EXIF; `name` is for messages.

    Raises StyleAvatarError if it is none, is damaged, or has more than `MOST_PIXELS`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(source, formats=FORMATS)
            check_pixels(image.size, name)
            image.load()
    except StyleAvatarError:
        raise
    except UnidentifiedImageError:
        raise StyleAvatarError(
            "this file is no picture",
            got=name,
            expected=", ".join(FORMATS),
            remedy="open it in an image program and save it as PNG",
        ) from None
    except Image.DecompressionBombError:
        raise _too_large(name) from None
    except Exception as error:  # decoders raise many kinds on damaged files
        raise _unreadable(name, error) from None
    return image


def upright(image: Image.Image, name: str) -> Image.Image:
    """The picture turned as its EXIF says. Raises StyleAvatarError if that is damaged."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception as error:  # many kinds, as above
        raise _unreadable(name, error) from None


def eight_bits(image: Image.Image) -> Image.Image:
    """A picture of more than 8 bits a channel (modes I, I;16, F) as 8-bit grey; any other as it is."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = numpy.asarray(image, dtype=numpy.float64)
    brightest = 65535 if image.mode.startswith("I") and values.max() > 255 else max(values.max(), 1.0)
    scaled = numpy.nan_to_num(values).clip(0, brightest) / brightest * 255
    return Image.fromarray(scaled.round().astype(numpy.uint8))


def check_pixels(size: tuple[int, int], name: str) -> None:
    """Raise unless a picture of this size is worth decoding."""
    if size[0] * size[1] > MOST_PIXELS:
        raise _too_large(f"{name}: {size[0]} x {size[1]}")
    if not size[0] * size[1]:
        raise StyleAvatarError("this picture is empty", got=f"{name}: {size[0]} x {size[1]}")


def _unreadable(name: str, error: Exception) -> StyleAvatarError:
    return StyleAvatarError(
        "this picture cannot be read",
        got=f"{name} ({error})",
        remedy="check the path, or save the picture again as PNG",
    )


def _too_large(name: str) -> StyleAvatarError:
    return StyleAvatarError(
        "this picture is too large", got=name, expected="at most 64 million pixels", remedy="make it smaller first"
    )
