"""The bare head of a look: which phenotype, which local changes, which expression; then drawn larger than life.

A caricature is a smooth warp of space around the eyes, the mouth, the jaw and the neck. It comes after the expression,
and it keeps lids on eyeballs and teeth behind lips whatever it magnifies, because no warp of space can move one surface
through another: every expression of the model works on every caricature.
"""

import random
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from styleavatar3d.figures.anatomy import EYE_CENTRE, ramp
from styleavatar3d.figures.heads import LASH, ORIGINS, SKIN, HeadModel
from styleavatar3d.figures.landmarks import LANDMARKS
from styleavatar3d.figures.looks import Look

_NECK = 6.1
"""Template height where the head ends and the body begins."""
_SHOULDER_DROP = 1.75
"""Decimetres of the template from ears to shoulder joints."""
_IRIS = 2.05
"""How much larger than in the template irises are."""
_GAZE = (0.055, 0.035)
"""Template decimetres that irises travel, sideways and up or down, when eyes look as far as they can."""
_ARCH = (0.86, 1.0, 1.0)
_TEETH = {"upper": (0.0, 0.07, 0.02), "lower": (0.0, 0.0, 0.06)}
"""Teeth are drawn in (shares, decimetres), so that no lip or chin lets them through; the upper ones sink, so that they
show when the mouth opens."""
_EYEBALLS = 0.012
"""Decimetres by which eyeballs sink behind their lids, for the same reason."""
_CALM = {"mouthSmileLeft": 0.12, "mouthSmileRight": 0.12}
_MOULDS = {
    "man": (0.09, 0.0, 0.0, 0.0),
    "woman": (-0.08, 0.0, 0.0, 0.05),
    "child": (0.0, 0.09, 0.07, 0.14),
    "alien": (-0.18, -0.06, 0.24, 0.08),
    "orc": (0.2, 0.06, -0.05, -0.06),
}
"""How heads are moulded: shares of `_moulded`."""
_OVERLAP, _JAW_DROP = 0.012, 0.384
"""Decimetres that closed lips press into each other, and that the lower lip sinks when the jaw opens."""
_SMILE = {
    "mouthSmileLeft": 1.1,
    "mouthSmileRight": 1.1,
    "jawOpen": 0.24,
    "mouthUpperUpLeft": 0.9,
    "mouthUpperUpRight": 0.9,
    "mouthLowerDownLeft": 0.3,
    "mouthLowerDownRight": 0.3,
    "cheekSquintLeft": 0.5,
    "cheekSquintRight": 0.5,
}


@dataclass(frozen=True)
class Face:
    """A bare head in decimetres, as high as the template's when its mouth is shut."""

    vertices: Float[Tensor, "vertices 3"]
    canonical: Float[Tensor, "vertices 3"]
    """Template coordinates; on eyeballs those of a sphere that looks where the eye looks."""
    faces: Int[Tensor, "faces 3"]
    parts: Int[Tensor, "faces"]


def face(model: HeadModel, look: Look, expression: dict[str, float] | None = None) -> Face:
    """The bare head of a look. `expression` (strengths of the 52 names) is added to the look's smile."""
    draw = random.Random(f"face/{look.seed}")
    neutral = _shut(model, _normalised(model, _identity(model, look, draw)))
    smile, asked = _SMILE if look.smile else _CALM, expression or {}
    strengths = {name: smile.get(name, 0.0) + asked.get(name, 0.0) for name in {**smile, **asked}}
    vertices = neutral.clone()
    model.express(vertices, _working(model, neutral, strengths))
    for row, teeth in model.teeth.items():
        vertices[teeth] = vertices[teeth] * vertices.new_tensor(_ARCH) - vertices.new_tensor(_TEETH[row])
    vertices[model.eyeballs, 2] -= _EYEBALLS
    ends = neutral[[model.points["crown"], model.points["chin"]]]
    warped = _caricature(model, look, draw, neutral, torch.cat([vertices, ends]))
    vertices = _smaller_body(model, _scaled(model, warped[:-2], warped[-2:]), look)
    hairs, roots, length = _lashes(model)
    vertices[hairs] = torch.lerp(vertices[roots], vertices[hairs], length[:, None])
    lashes = look.gender == "woman" and look.kind in ("human", "alien")
    return Face(vertices, _looking(model, vertices, strengths), *_surface(model, lashes))


@cache
def _lashes(model: HeadModel) -> tuple[Int[Tensor, "hairs"], Int[Tensor, "hairs"], Float[Tensor, "hairs"]]:
    """Vertices of lashes, where they are rooted, and how much of their magnified length they keep: little below."""
    skin, hairs = (model.faces[model.parts == part].unique() for part in (SKIN, LASH))
    x, y, z = model.template[skin].unbind(1)
    opening = ((x.abs() - EYE_CENTRE[0]) / 0.125) ** 2 + ((y - EYE_CENTRE[1]) / 0.058) ** 2
    rims = skin[(opening > 0.6) & (opening < 1.25) & (z > 1.25)]
    roots = rims[torch.cdist(model.template[hairs], model.template[rims]).argmin(1)]
    length = torch.where(model.template[hairs, 1] > EYE_CENTRE[1] - 0.008, 0.55, 0.2)
    return hairs, roots, length


@cache
def _surface(model: HeadModel, lashes: bool) -> tuple[Int[Tensor, "faces 3"], Int[Tensor, "faces"]]:
    """Faces and parts, with or without lashes."""
    shown = (model.parts != LASH) | lashes
    return model.faces[shown], model.parts[shown]


def _identity(model: HeadModel, look: Look, draw: random.Random) -> Float[Tensor, "vertices 3"]:
    """The head of a look as the model can draw it."""
    low, high = {"child": (0.24, 0.34), "young": (0.58, 0.68), "old": (0.94, 1.0)}[look.age]
    tilt = {"pale": (0.05, 0.4, 1), "tan": (0.3, 1, 0.6), "brown": (0.8, 0.3, 0.3), "dark": (1, 0.05, 0.05)}
    origin = [weight * draw.uniform(0.3, 1) for weight in tilt.get(look.skin, (1, 1, 1))]
    manly = look.gender == "man"
    gender = draw.uniform(0.0, 0.06) if manly else draw.uniform(0.94, 1.0)
    vertices = model.phenotype(
        gender=gender,
        age=draw.uniform(low, high),
        muscle=draw.uniform(0.5, 0.9) if manly else draw.uniform(0.3, 0.6),
        weight=0.2 + 0.75 * look.build,
        **dict(zip(ORIGINS, origin, strict=True)),
    )
    model.change(vertices, _changes(look, draw, sorted({pair[:-1] for pair in model.locals.names})))
    return vertices


def _changes(look: Look, draw: random.Random, names: list[str]) -> dict[str, float]:
    """Local changes: chance, then what age, gender and kind ask for."""
    manly = look.gender == "man"
    changes = {name: draw.gauss(0, _variety(name)) for name in names}
    changes |= {
        "eye-scale-incr": draw.uniform(0.2, 0.6),
        "eye-height2-incr": 0.2,
        "ear-wing-incr": -0.5,
        "head-age-incr": {"old": 1.0, "young": -0.3, "child": -0.4}[look.age],
        "head-scale-vert-incr": draw.uniform(-0.5, 0.1),
        "nose-scale-horiz-incr": draw.uniform(-0.5, 0.6) - (0.0 if manly else 0.3),
        "nose-scale-vert-incr": draw.uniform(-0.4, 0.2),
        "nose-hump-incr": draw.gauss(0, 0.3) if manly else -0.3,
        "mouth-scale-horiz-incr": draw.uniform(0.0, 0.5),
        "ear-scale-incr": draw.uniform(-0.3, 0.2),
    }
    return changes | _of_gender(look) | _of_kind(look)


def _variety(change: str) -> float:
    """How far a local change strays: nothing that would part lips or lids, little that would dent a skull."""
    if change.startswith(("neck", "eye-", "mouth")):
        return 0.3 if change.startswith("eye-corner") else 0.0
    return 0.15 if change.startswith(("head", "forehead", "eyebrows")) else 0.35


def _of_gender(look: Look) -> dict[str, float]:
    if look.age == "child":
        return {"nose-scale-vert-incr": -0.7, "nose-scale-depth-incr": -0.6, "cheek-volume-incr": 0.7}
    if look.gender == "man":
        return {"chin-width-incr": 0.8, "chin-prominent-incr": 0.5, "forehead-nubian-incr": -0.4}
    return {
        "chin-width-incr": -0.8,
        "mouth-upperlip-volume-incr": 0.4,
        "mouth-lowerlip-volume-incr": 0.4,
        "cheek-bones-incr": 0.4,
    }


def _of_kind(look: Look) -> dict[str, float]:
    pointed = {"ear-scale-incr": 0.9, "ear-shape-triangle": 1.5, "ear-wing-incr": 0.3}
    if look.kind == "alien":
        return {"nose-scale-horiz-incr": -0.7, "nose-scale-vert-incr": -0.8, "nose-scale-depth-incr": -0.6} | pointed
    if look.kind == "orc":
        jaw = {"chin-width-incr": 1.0, "chin-prognathism-incr": 0.9, "chin-jaw-drop-incr": 0.5, "chin-bones-incr": 1.0}
        brow = {"forehead-nubian-incr": -1.0, "eyebrows-angle-up": 0.6}
        nose = {"nose-scale-horiz-incr": 1.2, "nose-flaring-incr": 1.0, "nose-point-up": 0.8}
        return pointed | jaw | brow | nose
    if look.kind == "robot":
        return {"ear-scale-incr": -1.5, "ear-wing-incr": -1.5, "nose-scale-horiz-incr": -0.5}
    return {}


def _normalised(model: HeadModel, vertices: Tensor) -> Float[Tensor, "vertices 3"]:
    return _scaled(model, vertices, vertices[[model.points["crown"], model.points["chin"]]])


def _scaled(model: HeadModel, vertices: Tensor, ends: Float[Tensor, "2 3"]) -> Float[Tensor, "vertices 3"]:
    """Scaled so that `ends`, crown and chin, are as far apart as the template's, the head joint in its place."""
    template, joint = model.template, model.joints["head"]
    height = template[model.points["crown"], 1] - template[model.points["chin"], 1]
    return (vertices - vertices[joint]) * (height / (ends[0, 1] - ends[1, 1])) + template[joint]


def _shut(model: HeadModel, vertices: Tensor) -> Float[Tensor, "vertices 3"]:
    """The mouth shut: in some phenotypes lips stay a little apart."""
    upper, lower = (model.landmarks[LANDMARKS.index(name)] for name in ("lip_upper", "lip_lower"))
    gap = float((vertices[upper] - vertices[lower])[1]) + _OVERLAP
    model.express(vertices, {"jawOpen": -max(gap, 0.0) / _JAW_DROP})
    return vertices


def _working(model: HeadModel, neutral: Tensor, asked: dict[str, float]) -> dict[str, float]:
    """Strengths that do on this face what they are asked for: lids close over eyes that are open wider than the
    template's, lips close only what the jaw has opened, and part for the tongue."""
    top, bottom = (model.landmarks[LANDMARKS.index(f"eye_left_{end}")] for end in ("top", "bottom"))
    wider = float((neutral[top] - neutral[bottom])[1] / (model.template[top] - model.template[bottom])[1])
    strengths = {name: value * (wider if "Blink" in name else 1.0) for name, value in asked.items()}
    jaw, tongue = asked.get("jawOpen", 0.0), max(asked.get("tongueOut", 0.0), 0.0)
    if tongue > 0:
        strengths["jawOpen"] = max(jaw, 0.35 * tongue)
    if "mouthClose" in asked:
        strengths["mouthClose"] = min(asked["mouthClose"], max(jaw, 0.0))
    return strengths


def _caricature(
    model: HeadModel, look: Look, draw: random.Random, neutral: Tensor, points: Tensor
) -> Float[Tensor, "points 3"]:
    """Larger eyes and mouth, a broader or finer jaw."""
    lips = model.landmarks[[LANDMARKS.index("lip_upper"), LANDMARKS.index("lip_lower")]]
    eye, mouth = neutral[model.joints["l-eye"]], neutral[lips].mean(0)
    child = look.age == "child"
    big = draw.uniform(-0.06, 0.06) + {"alien": 0.5, "orc": -0.25}.get(look.kind, 0.22 if child else 0.0)
    woman = 0.12 if look.gender == "woman" and not child else 0.0
    droop = 0.3 if look.age == "old" else 0.0
    points = _magnified(points, eye, (0.5, 1.0 + woman + droop, 0.0), (0.2, 0.13, 0.5))
    points = _magnified(points, eye, (0.75 + big, 0.8 + big, 0.1), (0.36, 0.32, 0.5), apart=0.03)
    points = _magnified(points, mouth, (0.22, 0.3 + woman, 0.05), (0.40, 0.22, 0.6))
    return _moulded(points, _MOULDS.get(look.kind, _MOULDS["child" if child else look.gender]))


def _moulded(points: Float[Tensor, "points 3"], mould: tuple[float, float, float, float]) -> Float[Tensor, "points 3"]:
    """A head broader, by shares, at the jaw, the cheeks and the top of the skull, and shorter below the eyes."""
    jaw, cheeks, top, short = mould
    x, y, z = points.unbind(1)
    front = torch.sigmoid((z - 0.35) * 8)
    broader = front * (jaw * _bump(y, 6.35, 0.45) + cheeks * _bump(y, 6.85, 0.35)) + top * _bump(y, 8.1, 0.6)
    lower = short * torch.nn.functional.softplus((7.1 - y) * 6) / 6 * ramp(y, 5.6, 6.3)
    return torch.stack([x * (1 + broader), y + lower, z], 1)


def _bump(value: Tensor, middle: float, reach: float) -> Tensor:
    return torch.exp(-(((value - middle) / reach) ** 2))


def _magnified(
    points: Float[Tensor, "points 3"],
    centre: Float[Tensor, "3"],
    more: tuple[float, float, float],
    reach: tuple[float, float, float],
    apart: float = 0.0,
) -> Float[Tensor, "points 3"]:
    """Space magnified by 1 + `more` at a centre and at its mirror image, by 1 from about twice the reach on.

    Offsets grow by more * exp(-(offset / reach)^2), which is monotone for `more` up to 2.2. What rises and sinks does
    so over twice the width, so that brows stay level. `apart` moves the two centres away from each other.
    """
    side = torch.where(points[:, 0] < 0, -1.0, 1.0)
    offset = torch.stack([points[:, 0].abs(), points[:, 1], points[:, 2]], 1) - centre
    x, y, z = ((offset / points.new_tensor(reach)) ** 2).unbind(1)
    wide, narrow = torch.exp(-(x / 4 + y + z)), torch.exp(-(x + y + z))
    aside = (more[0] * offset[:, 0] + apart) * narrow * side
    if centre[0] > 0.1:
        aside = aside * torch.tanh(points[:, 0].abs() / 0.12)
    return points + torch.stack([aside, more[1] * offset[:, 1] * wide, more[2] * offset[:, 2] * narrow], 1)


def _looking(model: HeadModel, vertices: Tensor, strengths: dict[str, float]) -> Float[Tensor, "vertices 3"]:
    """Template coordinates, in which irises are round, of one size, and look where the eyes look."""
    canonical = model.template.clone()
    eyes = model.eyeballs
    for side, sign in (("Left", 1.0), ("Right", -1.0)):
        ball = eyes[model.template[eyes, 0] * sign > 0]
        corners = [model.landmarks[LANDMARKS.index(f"eye_{side.lower()}_{end}")] for end in ("inner", "outer")]
        middle = torch.stack([vertices[corners, 0].mean().abs(), vertices[ball, 1].mean()])
        out, up = (strengths.get(f"eyeLook{way}{side}", 0.0) for way in ("Out", "Up"))
        back, down = (strengths.get(f"eyeLook{way}{side}", 0.0) for way in ("In", "Down"))
        gaze = vertices.new_tensor((_GAZE[0] * (out - back), _GAZE[1] * (up - down)))
        flat = torch.stack([vertices[ball, 0] * sign, vertices[ball, 1]], 1)
        flat = (flat - middle) / _IRIS - gaze + vertices.new_tensor(EYE_CENTRE)
        canonical[ball, :2] = flat.clamp(min=0.01) * vertices.new_tensor((sign, 1.0))
    return canonical


def _smaller_body(model: HeadModel, vertices: Tensor, look: Look) -> Float[Tensor, "vertices 3"]:
    """A neck of the look's, and shoulders drawn in and up under the head, so that a view that the head fills still
    holds them."""
    slim = 0.9 if look.gender == "woman" else 1.0
    slim = {"child": 0.75, "young": slim, "old": slim}[look.age] * {"orc": 1.15, "alien": 0.85}.get(look.kind, 1.0)
    y = model.template[:, 1]
    throat = torch.exp(-(((y - 5.8) / 0.35) ** 2)) * ramp(7.2 - y, 0.0, 0.8)
    below = (_NECK - y).clamp(min=0)
    narrow = 1 - 0.28 * ramp(below, 0.0, 0.9)
    ear, shoulder = model.points["left_ear"], model.joints["l-shoulder"]
    missing = vertices[ear, 1] - _SHOULDER_DROP - vertices[shoulder, 1]
    lift = missing * (below / below[shoulder]).clamp(max=1.3) - 2.0 * (below - 1.7).clamp(min=0)
    around = narrow * (1 + (slim - 1) * throat)
    return torch.stack([vertices[:, 0] * around, vertices[:, 1] + lift, vertices[:, 2] * around], 1)
