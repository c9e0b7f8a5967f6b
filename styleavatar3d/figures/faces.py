"""The bare head of a look: which phenotype, which local changes, which expression."""

import random

import torch
from jaxtyping import Float
from torch import Tensor

from styleavatar3d.figures.anatomy import ramp
from styleavatar3d.figures.heads import ORIGINS, HeadModel
from styleavatar3d.figures.looks import Look

_NECK = 6.1
"""Template height where the head ends and the body begins."""
_SHOULDER_DROP = 1.75
"""Decimetres of the template from ears to shoulder joints."""


def face(model: HeadModel, look: Look, expression: dict[str, float] | None = None) -> Float[Tensor, "vertices 3"]:
    """The bare head of a look, template coordinates, its skull as high as the template's.

    `expression` (strengths of the 52 names) is added to the look's smile.
    """
    draw = random.Random(f"face/{look.seed}")
    low, high = {"child": (0.22, 0.38), "young": (0.6, 0.72), "old": (0.93, 1.0)}[look.age]
    tilt = {"pale": (0.05, 0.4, 1), "tan": (0.3, 1, 0.6), "brown": (0.8, 0.3, 0.3), "dark": (1, 0.05, 0.05)}
    origin = [weight * draw.uniform(0.3, 1) for weight in tilt.get(look.skin, (1, 1, 1))]
    gender = draw.uniform(0.0, 0.1) if look.gender == "man" else draw.uniform(0.9, 1.0)
    vertices = model.phenotype(
        gender=gender,
        age=draw.uniform(low, high),
        muscle=draw.uniform(0.3, 0.8),
        weight=0.2 + 0.75 * look.build,
        **dict(zip(ORIGINS, origin, strict=True)),
    )
    changes = {name: draw.gauss(0, 0.3) for name in sorted({pair[:-1] for pair in model.locals.names})}
    changes |= {name: 0.0 for name in changes if name.startswith("neck")}
    alien = look.kind == "alien"
    pointed = alien and look.hair not in ("bob", "long")
    changes |= {
        "eye-scale-incr": draw.uniform(1.8, 2.4) + (0.4 if alien else 0.0) - (0.5 if look.age == "child" else 0.0),
        "eye-height1-incr": 0.4,
        "eye-height2-incr": draw.uniform(0.7, 1.1),
        "eye-height3-incr": 0.4,
        "eye-eyefold-up": 0.0,
        "eye-epicanthus-out": 0.0,
        "eye-bag-incr": 0.0,
        "ear-wing-incr": -0.5,
        "head-age-incr": {"old": 1.0, "young": -0.3, "child": -0.4}[look.age],
        "head-scale-vert-incr": draw.uniform(-0.5, 0.2),
        "nose-scale-horiz-incr": -0.6 if alien else draw.uniform(-0.5, 0.6),
        "nose-scale-vert-incr": -0.6 if alien else draw.uniform(-0.4, 0.2),
        "mouth-scale-horiz-incr": draw.uniform(0.2, 0.8),
        "ear-scale-incr": 0.9 if pointed else draw.uniform(-0.3, 0.2),
        "ear-shape-triangle": 1.5 if pointed else 0.0,
    }
    model.change(vertices, changes)
    smile = {"mouthSmileLeft": 1.2, "mouthSmileRight": 1.2} if look.smile else {}
    asked = expression or {}
    model.express(vertices, {name: smile.get(name, 0.0) + asked.get(name, 0.0) for name in {*smile, *asked}})
    height = [(field[model.points["crown"]] - field[model.points["chin"]])[1] for field in (model.template, vertices)]
    origin_joint = model.joints["head"]
    vertices = (vertices - vertices[origin_joint]) * (height[0] / height[1]) + model.template[origin_joint]
    return _smaller_body(model, vertices)


def _smaller_body(model: HeadModel, vertices: Tensor) -> Tensor:
    """Shoulders drawn in and up under the head, so that a view that the head fills still holds them."""
    below = (_NECK - model.template[:, 1]).clamp(min=0)
    narrow = 1 - 0.28 * ramp(below, 0.0, 0.9)
    ear, shoulder = model.points["left_ear"], model.joints["l-shoulder"]
    missing = vertices[ear, 1] - _SHOULDER_DROP - vertices[shoulder, 1]
    lift = missing * (below / below[shoulder]).clamp(max=1.3) - 2.0 * (below - 1.7).clamp(min=0)
    return torch.stack([vertices[:, 0] * narrow, vertices[:, 1] + lift, vertices[:, 2] * narrow], 1)
