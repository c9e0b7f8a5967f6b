"""A user's picture, whatever its kind, as the generator and the CLIP encoder see pictures."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.runtime.pictures import check_pixels, eight_bits, open_picture, upright

Picture = str | Path | Image.Image | np.ndarray | Tensor
BACKGROUND = (127, 127, 127)
"""the grey behind every figure of the little world; a transparent picture is laid on it"""


def read_picture(source: Picture, size: int) -> Float[Tensor, "3 size size"]:
    """A square RGB picture in [-1, 1] from a path, a PIL image, or an array [height, width(, 1 | 3 | 4)].

    Any mode, palette, alpha and EXIF rotation; 16 bits are reduced to 8. Arrays are uint8, or floats in [0, 1].
    A picture that is not square is centred on a grey square. Raises StyleAvatarError if it is none or above 64 MP.
    """
    flat = _flatten(upright(_to_pil(source), "picture"))
    side = max(flat.size)
    if side > 4 * size:
        flat.thumbnail((4 * size, 4 * size), Image.Resampling.BOX)
    square = ImageOps.pad(flat, (size, size), Image.Resampling.LANCZOS, color=BACKGROUND)
    return torch.from_numpy(np.asarray(square).copy()).permute(2, 0, 1).float() / 127.5 - 1


def _to_pil(source: Picture) -> Image.Image:
    if isinstance(source, Image.Image):
        check_pixels(source.size, "picture")
        return source
    if isinstance(source, (np.ndarray, Tensor)):
        return _from_array(source)
    if isinstance(source, (str, Path)):
        return open_picture(Path(source), str(source))
    raise StyleAvatarError(
        "this is no picture",
        got=type(source).__name__,
        expected="a path, a PIL image, or an array [height, width, channels]",
    )


def _from_array(source: np.ndarray | Tensor) -> Image.Image:
    array = np.asarray(source.detach().cpu() if isinstance(source, Tensor) else source)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    fits = array.size and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4)))
    if not fits or not (array.dtype == np.uint8 or np.issubdtype(array.dtype, np.floating)):
        raise StyleAvatarError(
            "this array is no picture",
            got=f"{array.dtype} {array.shape}",
            expected="uint8, or floats in [0, 1]; [height, width] or [height, width, 3 or 4]",
        )
    check_pixels((array.shape[1], array.shape[0]), "array")
    if array.dtype != np.uint8:
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise StyleAvatarError("this array is no picture", got="values outside [0, 1]", expected="floats in [0, 1]")
        array = (array * 255).round().astype(np.uint8)
    return Image.fromarray(array)


def _flatten(image: Image.Image) -> Image.Image:
    """RGB; transparent parts become the grey of the background."""
    image = eight_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    front = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", front.size, (*BACKGROUND, 255)), front).convert("RGB")
