"""The parametric head, laid over the head of any mesh: pose, three scales and a few shape coefficients.

Iterated closest points with normals (Chen and Medioni, 1991; distances to planes), robust weights that tighten step by
step, and Gauss-Newton updates. Hair, hats and bodies are outliers; what is known already (eyes of a rig, landmarks that
somebody set) joins as heavy points.
"""

from dataclasses import dataclass, replace
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.heads import SKIN, HeadModel
from styleavatar3d.figures.shapes import vertex_normals

CENTRE = torch.tensor([0.0, 7.323, 0.35])
"""Template coordinates: half way between chin and crown."""
HEIGHT = 2.336
"""Chin to crown of the template, decimetres."""
_MODES, _PEOPLE = 8, 64
_NORMAL = 0.15
"""A turned normal counts as far as this share of a head's height."""
_TILT, _UNEVEN, _SHAPE = 0.05, 1.0, 0.02
"""How much turning, unequal scales and a coefficient of one standard deviation cost, in squared head heights."""


@dataclass(frozen=True)
class Cloud:
    """Points of a surface, and its normals there."""

    points: Float[Tensor, "points 3"]
    normals: Float[Tensor, "points 3"]

    def __getitem__(self, some: Tensor | slice) -> "Cloud":
        return Cloud(self.points[some], self.normals[some])


@dataclass(frozen=True)
class Pose:
    """Where a head is: its axes (left, up, front) as columns, its sizes along them, its middle, its shape."""

    turn: Float[Tensor, "3 3"]
    size: Float[Tensor, "3"]
    """Height of the head, by axis: equal ones keep the proportions of the template."""
    middle: Float[Tensor, "3"]
    shape: Float[Tensor, "modes"]

    @property
    def height(self) -> Tensor:
        return self.size.log().mean().exp()

    def place(self, some: Int[Tensor, "some"] | None = None) -> Float[Tensor, "some 3"]:
        """Vertices of the template (all, or some) in the file."""
        form = shapes()
        mean, modes = (form.mean, form.modes) if some is None else (form.mean[some], form.modes[:, some])
        return self.middle + ((mean + torch.einsum("k,kvc->vc", self.shape, modes)) * self.size) @ self.turn.T


@dataclass(frozen=True)
class Shapes:
    """The template in head heights, and how people differ."""

    mean: Float[Tensor, "vertices 3"]
    modes: Float[Tensor, "modes vertices 3"]
    """By one standard deviation each."""
    normals: Float[Tensor, "vertices 3"]
    sample: Int[Tensor, "sample"]
    """Vertices of the outer skin of the head, spread evenly."""
    weight: Float[Tensor, "sample"]


@cache
def shapes() -> Shapes:
    """Modes of a population drawn from the head model."""
    model, generator = HeadModel.load(), torch.Generator().manual_seed(0)
    people = []
    for _ in range(_PEOPLE):
        draw = torch.rand(7, generator=generator).tolist()
        names = ("gender", "age", "muscle", "weight", "african", "asian", "caucasian")
        people.append(model.phenotype(**dict(zip(names, draw, strict=True))))
    crowd = torch.stack(people) - model.template
    crowd = (crowd - crowd[:, model.eyeballs].mean(1, keepdim=True)) / HEIGHT
    _, strength, modes = torch.linalg.svd(crowd.flatten(1), full_matrices=False)
    modes = (modes * strength[:, None] / _PEOPLE**0.5)[:_MODES].view(_MODES, -1, 3)
    mean = (model.template - CENTRE) / HEIGHT
    faces = model.faces[model.parts == SKIN]
    normals = vertex_normals(mean, faces)
    corner = mean[faces]
    area = torch.linalg.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]).norm(dim=1)
    share = torch.zeros(len(mean)).index_add_(0, faces.flatten(), area.repeat_interleave(3))
    outward = (normals * torch.nn.functional.normalize(mean, dim=1)).sum(1) > 0.2
    share = share * outward * (mean[:, 1] > -0.48)
    sample = torch.multinomial(share, 600, generator=generator)
    face = (mean[sample, 2] > 0.1) & (mean[sample, 1] < 0.25)
    return Shapes(mean, modes, normals, sample, torch.where(face, 1.6, 0.8))


def start(turn: Float[Tensor, "3 3"], height: float, middle: Float[Tensor, "3"]) -> Pose:
    """The average head."""
    return Pose(turn, torch.full((3,), float(height)), middle, torch.zeros(_MODES))


def fit(
    cloud: Cloud,
    pose: Pose,
    known: dict[int, Float[Tensor, "3"]],
    steps: int = 24,
    turning: bool = True,
    points: int = 600,
) -> tuple[Pose, float]:
    """The pose that lays the head over the cloud, and its error: mean distance (at most 0.2), in head heights.

    `known` ties vertices of the template to places. Without `turning`, only nodding is allowed, a little.
    """
    form = shapes()
    some, weight = form.sample[:points], form.weight[:points]
    ties = torch.tensor(list(known), dtype=torch.long)
    targets = torch.stack(list(known.values())) if known else torch.zeros(0, 3)
    first, distance = pose, torch.ones(1)
    for step in range(steps):
        width = 0.12 * (0.03 / 0.12) ** (step / max(steps - 1, 1))
        height = pose.height
        placed = pose.place(some)
        normal = torch.nn.functional.normalize((form.normals[some] / pose.size) @ pose.turn.T, dim=1)
        query = torch.cat([placed / height, _NORMAL * normal], 1)
        nearest = torch.cdist(query, torch.cat([cloud.points / height, _NORMAL * cloud.normals], 1)).argmin(1)
        near = cloud[nearest]
        gap = (placed - near.points) / height
        distance = gap.norm(dim=1)
        trust = weight / (1 + (distance / width) ** 2) ** 2
        pose = _improved(pose, first, some, gap, near.normals, trust, ties, targets, turning)
    return pose, float((distance.clamp(max=0.2) * weight).sum() / weight.sum())


def _improved(
    pose: Pose, first: Pose, some: Tensor, gap: Tensor, normals: Tensor, trust: Tensor, ties: Tensor, targets: Tensor,
    turning: bool,
) -> Pose:  # fmt: skip
    """One Gauss-Newton step: across surfaces fully, along them a little, and towards known places."""
    height = pose.height
    across = torch.einsum("pi,pij->pj", normals, _jacobian(pose, some))
    along = _jacobian(pose, some)
    tied = _jacobian(pose, ties)
    miss = (pose.place(ties) - targets) / height
    heavy = 15.0
    hessian = torch.einsum("p,pi,pj->ij", trust, across, across)
    hessian += 0.1 * torch.einsum("p,pci,pcj->ij", trust, along, along)
    hessian += heavy * torch.einsum("pci,pcj->ij", tied, tied)
    slope = torch.einsum("p,pi,p->i", trust, across, (gap * normals).sum(1))
    slope += 0.1 * torch.einsum("p,pci,pc->i", trust, along, gap) + heavy * torch.einsum("pci,pc->i", tied, miss)
    tilt = torch.full((3,), _TILT if turning else 1e6)
    tilt[0] = _TILT if turning else 30.0
    prior = torch.cat([torch.full((3,), 1e-6), tilt, torch.full((3,), 1e-6), torch.full((_MODES,), _SHAPE)])
    uneven = _UNEVEN * (torch.eye(3) - 1 / 3)
    hessian = hessian + prior.diag()
    hessian[6:9, 6:9] += uneven
    slope[6:9] += uneven @ pose.size.log()
    slope[9:] += _SHAPE * pose.shape
    if not turning:
        slope[3] += tilt[0] * _angle(pose, first)
    change = -torch.linalg.solve(hessian, slope)
    change[3:6] = change[3:6].clamp(-0.3, 0.3)
    change[6:9] = change[6:9].clamp(-0.25, 0.25)
    return Pose(
        turn=pose.turn @ torch.linalg.matrix_exp(_cross(change[3:6])),
        size=pose.size * change[6:9].exp(),
        middle=pose.middle + change[:3] * height,
        shape=(pose.shape + change[9:]).clamp(-2.5, 2.5),
    )


def _angle(pose: Pose, first: Pose) -> Tensor:
    """How far the head has nodded, radians."""
    between = first.turn.T @ pose.turn
    return torch.atan2(between[2, 1], between[1, 1])


def _jacobian(pose: Pose, some: Tensor) -> Float[Tensor, "points 3 unknowns"]:
    """How points move, in head heights, with the middle, turns about the head's axes, sizes and shape."""
    form = shapes()
    height = pose.height
    local = (form.mean[some] + torch.einsum("k,kvc->vc", pose.shape, form.modes[:, some])) * pose.size
    turned = -pose.turn @ _cross(local)
    grown = pose.turn @ torch.diag_embed(local)
    formed = torch.einsum("ij,kvj->vik", pose.turn, form.modes[:, some] * pose.size)
    moved = torch.eye(3).expand(len(local), 3, 3) * height
    return torch.cat([moved, turned, grown, formed], 2) / height


def _cross(vector: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))


def search(cloud: Cloud, axes: list[tuple[Tensor, float]]) -> tuple[Pose, float]:
    """The head in a cloud whose axes and scale are unknown: a rough fit from every start, the best few refined.

    `axes` are turns to try, and a factor on the error of each: how unlikely it is to begin with.
    Raises StyleAvatarError where there is no trace of one: a needle, a speck.
    """
    tried = []
    for turn, unlikely in axes:
        along = cloud.points @ turn
        top, low = along[:, 1].quantile(0.999), along[:, 1].min()
        for share in (1.0, 0.62, 0.4, 0.25, 0.16):
            height = float((top - low) * share)
            slab = along[:, 1] > top - 1.1 * height
            box = along[slab]
            centre = (box.quantile(0.03, 0) + box.quantile(0.97, 0)) / 2
            centre[1] = top - 0.5 * height
            some = cloud[torch.nonzero(slab).squeeze(1)[:700]]
            if len(some.points) > 50:
                pose, error = fit(some, start(turn, height, turn @ centre), {}, 6, points=160)
                tried.append(((error + _uncovered(some, pose)) * unlikely, unlikely, pose))
    tried.sort(key=lambda entry: entry[0])
    refined = []
    for _, unlikely, pose in tried[:5]:
        close = cloud[torch.nonzero((cloud.points - pose.middle).norm(dim=1) < 1.1 * pose.height).squeeze(1)[:2500]]
        if len(close.points) > 50:
            better, error = fit(close, replace(pose, shape=0 * pose.shape), {}, 14, points=300)
            refined.append(((error + _uncovered(close, better)) * unlikely, better))
    if not refined:
        raise StyleAvatarError(
            "no head was found in it", got="no place in which 50 points lie as those of a head may",
            remedy="say where eyes and ears are in a landmarks file (docs/figures.md)",
        )  # fmt: skip
    error, pose = min(refined, key=lambda entry: entry[0])
    return pose, float(error)


def _uncovered(cloud: Cloud, pose: Pose) -> float:
    """Mean distance (at most 0.2) from what is above the chin to the head, in head heights."""
    local = (cloud.points - pose.middle) @ pose.turn / pose.height
    above = cloud.points[local[:, 1] > -0.4][:400]
    if not len(above):
        return 0.2
    return float(torch.cdist(above, pose.place(shapes().sample)).amin(1).div(pose.height).clamp(max=0.2).mean())
