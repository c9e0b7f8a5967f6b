"""Body and face as the public OpenPose ControlNets saw them: 18 points and 17 bones in colours, 70 white points.

Drawn from the published layout (colours, order, widths); no code and no weights of OpenPose, whose licence forbids
commercial use, take part.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.heads import Figure
from styleavatar3d.figures.keypoints import BODY, BONES, SURFACE, locate, seen

_NAMES = tuple(BODY)
_JAW = 17
_JAW_SURFACE = 0.1
"""The line of the jaw is marked although cheeks and beards bulge before it: 6 cm."""
_LARGE = 1000
"""From this size on pictures are for SDXL, whose OpenPose ControlNet (xinsir) was taught bones of three times 4 px."""


def openpose_guidance(
    figure: Figure, labels: Float[Tensor, "views 25"], size: int
) -> Float[Tensor, "views size size 3"]:
    """What is seen of body and face, 0..255, on black."""
    xy, visible = locate(figure, labels, _NAMES)
    pictures = torch.stack([_body(at * size, shown, size) for at, shown in zip(xy, visible, strict=True)])
    if figure.face is not None:
        for picture, at, shown in zip(pictures, *locate_face(figure, labels), strict=True):
            lay(picture, discs(at[shown] * size, max(1.0, 3 * size / 512), size), (255, 255, 255))
    return pictures


def locate_face(
    figure: Figure, labels: Float[Tensor, "views 25"]
) -> tuple[Float[Tensor, "views 70 2"], Bool[Tensor, "views 70"]]:
    """As `locate`, of the points of a figure's face. None is visible where neither eye or no nose is: a detector finds
    no face there, whatever the ears and the jaw show."""
    if figure.face is None:
        raise StyleAvatarError("the points of this figure's face are not known", remedy="fit the parametric head to it")
    allowed = figure.face.new_full((len(figure.face),), SURFACE)
    allowed[:_JAW] = _JAW_SURFACE
    xy, visible = seen(figure, figure.face, allowed, labels)
    nose, right, left = locate(figure, labels, ("nose", "right_eye", "left_eye"))[1].unbind(1)
    return xy, visible & (nose & (right | left))[:, None]


def bone_width(size: int) -> float:
    """Half the width of a bone, and the radius of a point, in pixels: 4 in pictures of 512."""
    return max(1.0, size / 128) if size < _LARGE else 12 * size / 1024


def _body(xy: Float[Tensor, "18 2"], visible: Bool[Tensor, "18"], size: int) -> Float[Tensor, "size size 3"]:
    """Bones between points that are both visible, thick in the middle, and the points on top."""
    picture, width = xy.new_zeros(size, size, 3), bone_width(size)
    for ends, color in BONES.items():
        one, other = (_NAMES.index(end) for end in ends)
        if visible[one] and visible[other]:
            lay(picture, spindle(xy[one], xy[other], width, size), color)
    for point in torch.nonzero(visible).flatten().tolist():
        lay(picture, discs(xy[point, None], width, size), BODY[_NAMES[point]])
    return picture


def lay(picture: Float[Tensor, "size size 3"], share: Float[Tensor, "size size"], color: tuple[int, int, int]) -> None:
    """Cover with `color`, in place, where `share` is 1."""
    picture.lerp_(picture.new_tensor(color), share[..., None])


def spindle(start: Float[Tensor, "2"], end: Float[Tensor, "2"], width: float, size: int) -> Float[Tensor, "size size"]:
    """How much of each pixel an ellipse covers, from `start` to `end` (pixels) and `width` to each side of them."""
    across, down = ((start + end) / 2).tolist()
    half = max(float((end - start).norm()) / 2, 0.5)
    u, v = ((end - start) / (2 * half)).tolist()
    centre = torch.arange(size, device=start.device) + 0.5
    x, y = centre - across, (centre - down)[:, None]
    along, aside = (x * u + y * v) / half, (y * u - x * v) / width
    level = (along.square() + aside.square()).sqrt().clamp(min=1e-6)
    slope = ((along / half).square() + (aside / width).square()).sqrt().clamp(min=1e-6) / level
    return (0.5 - (level - 1) / slope).clamp(0, 1)


def discs(centres: Float[Tensor, "points 2"], radius: float, size: int) -> Float[Tensor, "size size"]:
    """How much of each pixel discs at `centres` (pixels) cover."""
    reach = int(radius) + 2
    near = torch.arange(-reach, reach + 1, device=centres.device)
    at = centres.floor().long()
    columns, rows = at[:, 0, None] + near, at[:, 1, None] + near
    x, y = columns + 0.5 - centres[:, 0, None], rows + 0.5 - centres[:, 1, None]
    share = (radius + 0.5 - (x.square()[:, None] + y.square()[:, :, None]).sqrt()).clamp(0, 1)
    inside = ((rows >= 0) & (rows < size))[:, :, None] & ((columns >= 0) & (columns < size))[:, None]
    place = (rows.clamp(0, size - 1) * size)[:, :, None] + columns.clamp(0, size - 1)[:, None]
    picture = centres.new_zeros(size * size)
    return picture.scatter_reduce_(0, place.flatten(), (share * inside).flatten(), "amax").view(size, size)
