"""The 18-point body layout: which points a camera sees, and how the miniature draws those that a bust has."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from styleavatar3d.figures.heads import EYE, MOUTH, SKIN, TEETH, Figure
from styleavatar3d.figures.rasterize import project

BODY = {
    "nose": (255, 0, 0),
    "neck": (255, 85, 0),
    "right_shoulder": (255, 170, 0),
    "right_elbow": (255, 255, 0),
    "right_wrist": (170, 255, 0),
    "left_shoulder": (85, 255, 0),
    "left_elbow": (0, 255, 0),
    "left_wrist": (0, 255, 85),
    "right_hip": (0, 255, 170),
    "right_knee": (0, 255, 255),
    "right_ankle": (0, 170, 255),
    "left_hip": (0, 85, 255),
    "left_knee": (0, 0, 255),
    "left_ankle": (85, 0, 255),
    "right_eye": (170, 0, 255),
    "left_eye": (255, 0, 255),
    "right_ear": (255, 0, 170),
    "left_ear": (255, 0, 85),
}
"""The points in their order, in the colours that ControlNet was taught."""
BONES = {
    ("neck", "right_shoulder"): (153, 0, 0),
    ("neck", "left_shoulder"): (153, 51, 0),
    ("right_shoulder", "right_elbow"): (153, 102, 0),
    ("right_elbow", "right_wrist"): (153, 153, 0),
    ("left_shoulder", "left_elbow"): (102, 153, 0),
    ("left_elbow", "left_wrist"): (51, 153, 0),
    ("neck", "right_hip"): (0, 153, 0),
    ("right_hip", "right_knee"): (0, 153, 51),
    ("right_knee", "right_ankle"): (0, 153, 102),
    ("neck", "left_hip"): (0, 153, 153),
    ("left_hip", "left_knee"): (0, 102, 153),
    ("left_knee", "left_ankle"): (0, 51, 153),
    ("neck", "nose"): (0, 0, 153),
    ("nose", "right_eye"): (51, 0, 153),
    ("right_eye", "right_ear"): (102, 0, 153),
    ("nose", "left_eye"): (153, 0, 153),
    ("left_eye", "left_ear"): (153, 0, 102),
}
"""What joins them, in the order in which it is drawn: the rainbow again, at 0.6 of its brightness."""
_BUST = ("nose", "neck", "right_shoulder", "left_shoulder", "right_eye", "left_eye", "right_ear", "left_ear")
POINT_COLORS = {name: BODY[name] for name in _BUST}
LIMBS = {ends: color for ends, color in BONES.items() if set(ends) <= set(_BUST)}
POINTS = _BUST
"""Those that the miniature's models know."""

_FLESH = (SKIN, EYE, TEETH, MOUTH)
"""What hides points: skin alone has holes, through which the far ear would be seen."""
SURFACE = 0.0156
"""How deep a point may lie under the skin and still be seen: 1 cm."""
JOINT = 0.3
"""Neck and shoulders lie inside the body: they are seen through their own flesh, but not through the whole chest."""
EYEBALL = 0.04
"""Eyes lie deep between nose and brow, and bulge: 2.5 cm."""
_DEPTH_ALLOWED = dict.fromkeys(BODY, JOINT) | {
    "nose": SURFACE,
    "right_eye": EYEBALL,
    "left_eye": EYEBALL,
    "right_ear": SURFACE,
    "left_ear": SURFACE,
}


def locate(
    figure: Figure, labels: Float[Tensor, "views 25"], names: Sequence[str] = POINTS
) -> tuple[Float[Tensor, "views points 2"], Bool[Tensor, "views points"]]:
    """Image coordinates over image size, and visibility, of points of `BODY`; those a figure lacks are not visible."""
    nowhere = figure.vertices.new_zeros(3)
    points = torch.stack([figure.key_points.get(name, nowhere) for name in names])
    allowed = points.new_tensor([_DEPTH_ALLOWED[name] for name in names])
    xy, visible = seen(figure, points, allowed, labels)
    return xy, visible & torch.tensor([name in figure.key_points for name in names], device=visible.device)


def seen(
    figure: Figure, points: Float[Tensor, "points 3"], allowed: Tensor | float, labels: Float[Tensor, "views 25"]
) -> tuple[Float[Tensor, "views points 2"], Bool[Tensor, "views points"]]:
    """Image coordinates over image size, and visibility, of points in the world.

    A point is visible when it is in the picture and no flesh of the bare figure stands nearer by more than `allowed`
    (world units); hair, hats and glasses never hide it, as a person who looks at the picture would still know where
    it is.
    """
    labels = labels.to(points)
    xy, depth = project(points, labels)
    flesh = figure.faces[torch.isin(figure.parts, figure.parts.new_tensor(_FLESH))]
    gap = _in_front(figure.vertices, flesh, labels[:, [3, 7, 11]], points)
    return xy, (gap <= allowed) & ((xy >= 0) & (xy < 1)).all(-1) & (depth > 0)


def _in_front(vertices: Tensor, faces: Tensor, origins: Tensor, points: Tensor) -> Float[Tensor, "origins points"]:
    """How far before each point the segment from each origin first enters the mesh, world units; 0 if it does not.

    A ray that enters a triangle passes all its edges on one side: products of Plücker coordinates (direction and
    moment of a line) agree in sign.
    """
    corners = [vertices.index_select(0, corner) for corner in faces.unbind(1)]
    rays = (points - origins[:, None]).reshape(-1, 3)
    starts = origins.repeat_interleave(len(points), 0)
    lines = torch.cat([torch.linalg.cross(starts, rays), rays], 1).T
    passed = torch.full((len(faces), len(rays)), -torch.inf, device=points.device)
    for start, end in zip(corners, [*corners[1:], corners[0]], strict=True):
        edge = torch.cat([end - start, torch.linalg.cross(start, end)], 1)
        passed = torch.maximum(passed, edge @ lines)
    face, ray = torch.nonzero(passed <= 0).unbind(1)
    a, b, c = (corner.index_select(0, face) for corner in corners)
    normal, ray_of = torch.linalg.cross(b - a, c - a), rays.index_select(0, ray)
    way = (normal * (a - starts.index_select(0, ray))).sum(1) / (normal * ray_of).sum(1)
    way = torch.where(way > 0, way, torch.inf)
    first = torch.full_like(rays[:, 0], torch.inf).scatter_reduce_(0, ray, way, "amin")
    return ((1 - first) * rays.norm(dim=1)).clamp(min=0).view(len(origins), len(points))


def draw(
    xy: Float[Tensor, "views points 2"], visible: Bool[Tensor, "views points"], size: int
) -> Float[Tensor, "views size size 3"]:
    """The drawing, 0..255: limbs between visible points, then the points, antialiased, on black."""
    ends = [(POINTS.index(a), POINTS.index(b)) for a, b in LIMBS] + [(i, i) for i in range(len(POINTS))]
    colors = xy.new_tensor([*LIMBS.values(), *POINT_COLORS.values()])
    limb = 0.4 + size / 128
    radius = xy.new_tensor([limb] * len(LIMBS) + [1.6 * limb] * len(POINTS))
    start, end = torch.tensor(ends, device=xy.device).unbind(1)
    drawn = (visible[:, start] & visible[:, end])[..., None, None]
    distance = _segment_distance(xy[:, start] * size, xy[:, end] * size, size)
    alpha = ((radius[:, None, None] + 0.5 - distance).clamp(0, 1) * drawn)[..., None]
    canvas = xy.new_zeros(len(xy), size, size, 3)
    for i, color in enumerate(colors):
        canvas = torch.lerp(canvas, color, alpha[:, i])
    return canvas


def _segment_distance(start: Tensor, end: Tensor, size: int) -> Float[Tensor, "views segments size size"]:
    """Pixels from every pixel centre to segments given in pixels."""
    centre = torch.arange(size, device=start.device) + 0.5
    x, y = centre - start[..., 0, None], centre - start[..., 1, None]
    along = (end - start)[..., None]
    u, v = along[..., 0, :], along[..., 1, :]
    share = ((x * u)[..., None, :] + (y * v)[..., :, None]) / (u * u + v * v).clamp(min=1e-12)[..., None]
    share = share.clamp(0, 1)
    across, down = x[..., None, :] - share * u[..., None], y[..., :, None] - share * v[..., None]
    return (across * across + down * down).sqrt()
