"""Lines: the hard ones of Canny (1986), and soft ones as edge networks (HED, PiDiNet) draw them.

Both are found in a picture, because that is what the public ControlNets were taught on: the figure in greys under a
lamp at the camera, before white. Figures from files bring their colours; on busts every part has a tone of its own, and
brows, lips and irises are painted. What something near stands before is darker, or shapes of one colour had no lines.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import conv2d, pad

from styleavatar3d.figures.anatomy import EYE_CENTRE, ramp
from styleavatar3d.figures.heads import EYE, SKIN

_TONES = (0.78, 0.95, 0.12, 0.30, 0.52, 0.10, 0.16, 0.45, 0.95, 0.30, 0.42, 0.95, 0.60)
"""Grey of each part, in the order of `heads`."""
_LUMA = (0.299, 0.587, 0.114)
"""How colours become greys, as OpenCV has it (ITU-R BT.601)."""
_BRIGHT, _DARKEST = 0.95, 0.1
LOW, HIGH = 100.0, 200.0
"""Canny's thresholds, in the units of OpenCV that ControlNet's tools use: the Sobel gradient of 0..255."""
SCALES = (1.0, 2.0, 4.0)
"""Widths of soft lines, in pixels of a picture of 512."""
_SHADOW = 4.0
"""Width of shadows, likewise."""
_DEEP, _DARK = 0.012, 0.45
"""How far behind (world units; 0.8 cm) a shadow is as dark as it gets, and how dark that is."""
_SHARPEST = 0.7
"""Pixels; narrower lines fall between them."""
_CONTRAST = 0.11
"""The step, of a grey scale from 0 to 1, that makes a soft line of 1 - 1 / e."""


def tones(parts: Int[Tensor, "points"], canonical: Float[Tensor, "points 3"]) -> Float[Tensor, "points"]:
    """Greys, 0..1, of points of a bust, made up."""
    return canonical.new_tensor(_TONES)[parts] * (1 - _makeup(parts, canonical))


def exposed(colors: Float[Tensor, "points 3"]) -> Float[Tensor, "points"]:
    """Greys, 0..1, of colours, as bright as the brightest allows."""
    grey = colors @ colors.new_tensor(_LUMA)
    return grey * (_BRIGHT / torch.cat([grey, grey.new_full((1,), _DARKEST)]).amax())


def lit(tone: Float[Tensor, "points"], facing: Float[Tensor, "points"]) -> Float[Tensor, "points"]:
    """Under a lamp at the camera; `facing` is the cosine between the normal of a point and the way to the camera."""
    return tone * (0.4 + 0.6 * facing.clamp(0, 1))


def _makeup(parts: Int[Tensor, "points"], canonical: Float[Tensor, "points 3"]) -> Float[Tensor, "points"]:
    """How much darker brows, lips and irises are."""
    x, y, z = canonical[:, 0].abs(), canonical[:, 1], canonical[:, 2]
    out = (x - 0.36).abs()
    brow = ramp(0.035 - (y - 7.58 + 1.1 * out.square()).abs(), -0.004, 0.004) * ramp(0.24 - out, 0, 0.02)
    middle = torch.where(y > 6.605, 0.095, 0.1) * (1 - (x / 0.285).square()).clamp(min=0).sqrt()
    lips = ramp(middle - (y - 6.605).abs(), -0.004, 0.004)
    skin = (parts == SKIN) & (z > 1.0)
    iris = ramp(0.058 - ((x - 0.2808).square() + (y - EYE_CENTRE[1]).square()).sqrt(), -0.004, 0.004)
    return 0.7 * iris * (parts == EYE) + torch.maximum(0.65 * brow, 0.35 * lips) * skin


def shadows(depth: Float[Tensor, "views height width"]) -> Float[Tensor, "views height width"]:
    """How much darker, 0..1, what lies just behind something in the picture is (Luft, Colditz and Deussen 2006: the
    depth minus its blur)."""
    seen = depth.isfinite()
    far = torch.where(seen, depth, 0).amax((1, 2), keepdim=True)
    filled = torch.where(seen, depth, far)
    behind = filled - blur(filled, max(_SHARPEST, _SHADOW * depth.shape[-1] / 512))
    return _DARK * (behind / _DEEP).clamp(0, 1) * seen


def canny(picture: Float[Tensor, "size size"]) -> Bool[Tensor, "size size"]:
    """Edges one pixel wide of greys in 0..255, between the thresholds `LOW` and `HIGH`.

    By scikit-image, which the project needs anyway; its gradient is that of OpenCV, its length Euclidean where OpenCV
    adds up |x| and |y|. Without smoothing, as OpenCV's, for the picture has no noise.
    """
    from skimage.feature import canny

    grey = picture.round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    edges = canny(grey, sigma=0, low_threshold=LOW, high_threshold=HIGH, mode="nearest")
    return torch.from_numpy(edges).to(picture.device)


def soft_edges(pictures: Float[Tensor, "views height width"]) -> Float[Tensor, "views height width"]:
    """Strength in 0..1 of the edges of greys in 0..1: the mean over `SCALES` of what each scale sees.

    A scale sees 1 - exp(-(s |gradient| / contrast)^2) of the picture blurred by s; times s, a step counts the same at
    every scale (Lindeberg 1998), and the square keeps soft shading black, which networks leave as a grey ghost.
    """
    seen = []
    for scale in SCALES:
        width = max(_SHARPEST, scale * pictures.shape[-1] / 512)
        down, across = torch.gradient(blur(pictures, width), dim=(1, 2))
        steep = 2.5 * width * (down.square() + across.square()).sqrt() / _CONTRAST
        seen.append(1 - torch.exp(-steep.square()))
    return torch.stack(seen).mean(0)


def blur(pictures: Float[Tensor, "views height width"], width: float) -> Float[Tensor, "views height width"]:
    """By a Gaussian with a standard deviation of `width` pixels; the border is repeated outwards."""
    reach = max(1, round(3 * width))
    offsets = torch.arange(-reach, reach + 1, device=pictures.device)
    weights = torch.exp(-0.5 * (offsets / width).square())
    weights = (weights / weights.sum())[None, None]
    wide = pad(pictures[:, None], (reach,) * 4, mode="replicate")
    return conv2d(conv2d(wide, weights[..., None]), weights[:, :, None])[:, 0]
