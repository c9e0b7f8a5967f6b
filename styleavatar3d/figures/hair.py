"""Hair cuts in template coordinates: closed volumes that hang from the crown over the skull of the template head.

Every cut is a drape: along each azimuth, hair follows the skull at some height above it, never turns inwards again, and
falls to an end that depends on the azimuth; there it turns under and runs back into the head. Tails, braids, buns and
crests are tubes and balls that start inside the drape. Colours flow along `Cut.flow`, not along the positions.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from styleavatar3d.figures.anatomy import HEAD_CENTRE, hairline, ramp, symmetric_bumps
from styleavatar3d.figures.shapes import ball, grid, mirrored

ByAzimuth = Callable[[Tensor], Tensor]
Volume = Callable[[Tensor, Tensor], Tensor]
"""Height above the skull at (azimuth, polar), radians, decimetres."""

_CROWN_TO_FLOOR = 56
"""Samples of a path of hair before it is cut to its length."""
_FLOOR = 4.6
_POLES = 46
"""Rows of the table of radii, 4 degrees apart."""


class Cut(NamedTuple):
    """A closed volume of hair."""

    vertices: Float[Tensor, "vertices 3"]
    faces: Int[Tensor, "faces 3"]
    flow: Float[Tensor, "vertices 3"]
    """Where colours are painted: strands run where the azimuth around the vertical through `HEAD_CENTRE` is constant,
    from the root (above) to the tip (below)."""


class Skull:
    """The template head, or its neck, as a radius over directions from a centre, ears left out."""

    def __init__(self, skin: Float[Tensor, "vertices 3"], centre: Float[Tensor, "3"] = HEAD_CENTRE):
        ears = (skin[:, 0].abs() > 0.78) & (skin[:, 1] < 7.7) & (skin[:, 1] > 6.7) & (skin[:, 2] < 0.65)
        offset = skin[~ears] - centre
        polar, azimuth = torch.linspace(0, math.pi, _POLES), torch.linspace(-math.pi, math.pi, 2 * _POLES - 1)
        cosine = direction(azimuth[None], polar[:, None]) @ normalize(offset, dim=1).T
        weight = torch.exp((cosine - 1) * 120) + 1e-9 * (cosine + 1.01)
        weight = torch.where(cosine > math.cos(0.22), weight, weight * 1e-6)
        table = weight @ offset.norm(dim=1) / weight.sum(-1)
        self.centre, self.table = centre, 0.5 * (table + table.flip(1))

    def radius(self, directions: Float[Tensor, "... 3"]) -> Float[Tensor, "..."]:
        """Distance from the centre to the skin in unit directions."""
        x, y, z = directions.unbind(-1)
        row = torch.acos(y.clamp(-1, 1)) / math.pi * (_POLES - 1)
        column = (torch.atan2(x, z) / math.pi + 1) * (_POLES - 1)
        top, left = row.long().clamp(max=_POLES - 2), column.long().clamp(max=2 * _POLES - 3)
        down, right = row - top, column - left
        above = self.table[top, left].lerp(self.table[top, left + 1], right)
        below = self.table[top + 1, left].lerp(self.table[top + 1, left + 1], right)
        return above.lerp(below, down)

    def surface(self, directions: Float[Tensor, "... 3"], above: Tensor | float) -> Float[Tensor, "... 3"]:
        """Points `above` decimetres over the skin in unit directions from the centre."""
        return self.centre + directions * (self.radius(directions) + above)[..., None]


def direction(azimuth: Tensor, polar: Tensor) -> Float[Tensor, "... 3"]:
    """Unit vectors; azimuth 0 is the face, polar 0 straight up."""
    azimuth, polar = torch.broadcast_tensors(azimuth, polar)
    return torch.stack([polar.sin() * azimuth.sin(), polar.cos(), polar.sin() * azimuth.cos()], -1)


def smooth(value: Tensor, start: float, end: float) -> Tensor:
    """0 up to `start`, 1 from `end`, and no corner between."""
    share = ramp(value, start, end)
    return share * share * (3 - 2 * share)


def join(*cuts: Cut) -> Cut:
    """One volume of several that overlap."""
    starts = [0]
    for cut in cuts:
        starts.append(starts[-1] + len(cut.vertices))
    faces = torch.cat([cut.faces + start for cut, start in zip(cuts, starts, strict=False)])
    return Cut(torch.cat([cut.vertices for cut in cuts]), faces, torch.cat([cut.flow for cut in cuts]))


def azimuths(parting: float, columns: int = 60) -> Float[Tensor, "columns"]:
    """Azimuths of paths, mirrored, close together within 9 degrees of the parting between fringe and fall."""
    near = torch.linspace(parting - 9, parting + 9, 7)
    rest = columns // 2 - 6
    before = max(3, round(rest * (parting - 9) / 162))
    front = torch.linspace(0, parting - 9, before + 1)[:-1]
    back = torch.linspace(parting + 9, 180, rest - before + 1)[1:]
    half = torch.cat([front, near, back]).deg2rad()
    return torch.cat([-half.flip(0), half[1:]])


def drape(
    skull: Skull,
    volume: Volume,
    end: ByAzimuth,
    *,
    rows: int = 13,
    parting: float = 57.0,
    columns: int = 60,
    cling: float = 0.0,
    locks: float = 0.0,
    count: int = 11,
    tips: float = 0.0,
    bumps: float = 0.0,
    frequency: float = 9.0,
    curl: float = 0.0,
) -> Cut:
    """Hair of some `volume` down to the heights `end`. `cling` (0 .. 1) lets it follow nape and neck, as it does
    before `parting` degrees anyway, `locks` is the relief of `count` locks on either side, `tips` how far they point
    below the end, `curl` how far the ends turn in."""
    azimuth = azimuths(parting, columns)
    lock = torch.cos(azimuth * count) * 0.5 + 0.5
    fringe = 1 - smooth(azimuth.abs().rad2deg(), parting - 14, parting - 7)
    path = _paths(skull, volume, azimuth, torch.maximum(fringe, torch.tensor(cling)))
    stop = end(azimuth) - tips * lock * ramp(azimuth.abs(), 0.9, 1.3)
    outer = _cut_to(path, stop, rows)
    way = torch.linspace(0, 1, rows)[:, None]
    wave = torch.cos(azimuth * count + 0.8 * torch.sin(4 * way) * azimuth.sign())
    relief = 0.5 * locks * wave * smooth(way, 0.15, 0.6)
    relief = relief - curl * smooth(way, 0.72, 1.0) ** 2 * smooth(azimuth.abs().rad2deg(), parting, parting + 12)
    relief = relief + bumps * symmetric_bumps(outer, frequency) * ramp(way, 0.0, 0.15)
    out = normalize(outer - HEAD_CENTRE, dim=-1)
    outer = outer + relief[..., None] * out
    return _closed(skull, outer, azimuth)


def _paths(skull: Skull, volume: Volume, azimuth: Tensor, cling: Tensor) -> Float[Tensor, "samples columns 3"]:
    """Paths from the crown to the floor, one for each azimuth."""
    polar = torch.linspace(0, 2.3, _CROWN_TO_FLOOR - 12)[:, None].expand(-1, len(azimuth))
    around = azimuth.expand_as(polar)
    above = volume(around, polar)
    points = skull.surface(direction(around, polar), 0.0)
    offset = points - HEAD_CENTRE
    points = HEAD_CENTRE + offset * (1 + above / offset.norm(dim=-1))[..., None]
    reach = (points - HEAD_CENTRE)[..., ::2].norm(dim=-1)
    height = points[..., 1]
    down = torch.linspace(0, 1, 13)[1:, None]
    height = torch.cat([height, height[-1:] + (_FLOOR - height[-1:]) * down])
    reach = torch.cat([reach, reach[-1:].expand(12, -1)])
    widest = reach.cummax(0).values
    reach = widest + cling * (reach - widest)
    aside = torch.stack([azimuth.sin(), azimuth.cos()], -1)
    x, z = (reach[..., None] * aside).unbind(-1)
    return torch.stack([x, height, z + HEAD_CENTRE[2]], -1)


def _cut_to(path: Tensor, stop: Float[Tensor, "columns"], rows: int) -> Float[Tensor, "rows columns 3"]:
    """Paths that end at the heights `stop`, in `rows` even steps."""
    step = (path[1:] - path[:-1]).norm(dim=-1)
    length = torch.cat([torch.zeros_like(step[:1]), step.cumsum(0)])
    falling = path[..., 1].cummin(0).values
    whole = _interpolate((-falling).T, length.T, -stop[:, None])
    goal = whole * torch.linspace(0, 1, rows)
    return torch.stack([_interpolate(length.T, path[..., axis].T, goal) for axis in range(3)], -1).transpose(0, 1)


def _interpolate(xs: Tensor, ys: Tensor, at: Tensor) -> Tensor:
    """Piecewise-linear functions, one a row: knots (xs, ys) [rows, knots], evaluated at [rows, points]."""
    right = torch.searchsorted(xs.contiguous(), at.contiguous()).clamp(1, xs.shape[1] - 1)
    low, high = xs.gather(1, right - 1), xs.gather(1, right)
    share = ((at - low) / (high - low).clamp(min=1e-9)).clamp(0, 1)
    return ys.gather(1, right - 1).lerp(ys.gather(1, right), share)


def _closed(skull: Skull, outer: Float[Tensor, "rows columns 3"], azimuth: Tensor) -> Cut:
    """Turn the ends under and lead them back into the head."""
    hem = outer[-1]
    around = torch.atan2(hem[:, 0], hem[:, 2] - HEAD_CENTRE[2])
    limit = hairline(azimuth).clamp(max=math.radians(88))
    hem_polar = torch.acos((normalize(hem - HEAD_CENTRE, dim=1)[:, 1]).clamp(-1, 1))
    root = skull.surface(direction(around, torch.minimum(limit, hem_polar - 0.04)), -0.1)
    aside = torch.stack([azimuth.sin(), torch.zeros_like(azimuth), azimuth.cos()], 1)
    fallen = smooth(root[:, 1] - hem[:, 1], 0.1, 0.6)[:, None]
    turned = hem - aside * 0.17 * fallen + torch.tensor([0.0, 0.05, 0.0]) * fallen
    inner = torch.where(fallen > 0.02, turned, hem.lerp(root, 0.3))
    layers = torch.cat([outer, inner[None], (0.5 * inner + 0.5 * root)[None], root[None]])
    vertices, faces = grid(layers)
    return Cut(vertices, faces, vertices)


def strand(
    path: Float[Tensor, "points 3"],
    radius: Float[Tensor, "points"],
    sides: int = 10,
    *,
    twist: float = 0.0,
    relief: float = 0.12,
    flat: float = 1.0,
) -> Cut:
    """A closed tail of hair along a path, thinned to a point; strands run along it, `twist` radians a point."""
    tangent = normalize(torch.gradient(path, dim=0)[0], dim=1)
    aside = normalize(torch.linalg.cross(tangent, torch.tensor([0.1, 0.05, 1.0]).expand_as(tangent)), dim=1)
    across = torch.linalg.cross(tangent, aside)
    angle = torch.linspace(-math.pi, math.pi, sides + 1) + twist * torch.arange(len(path))[:, None]
    lobes = 1 + relief * torch.cos(3 * (angle - twist * torch.arange(len(path))[:, None]))
    ring = aside[:, None] * angle.cos()[..., None] + flat * across[:, None] * angle.sin()[..., None]
    points = path[:, None] + (radius[:, None] * lobes)[..., None] * ring
    closed = torch.cat([path[:1, None].expand(1, sides + 1, 3), points, path[-1:, None].expand(1, sides + 1, 3)])
    vertices, faces = grid(closed.flip(1))
    plain = torch.linspace(-math.pi, math.pi, sides + 1).flip(0).expand(len(path) + 2, -1)
    along = torch.linspace(8.4, 5.4, len(path) + 2)[:, None].expand_as(plain)
    flow = torch.stack([0.9 * plain.sin(), along, 0.9 * plain.cos() + 0.2], -1).reshape(-1, 3)
    return Cut(vertices, faces, flow)


def curve(knots: Sequence[Sequence[float]], points: int) -> Float[Tensor, "points 3"]:
    """A Catmull-Rom spline through knots."""
    knot = torch.tensor(knots)
    knot = torch.cat([2 * knot[:1] - knot[1:2], knot, 2 * knot[-1:] - knot[-2:-1]])
    at = torch.linspace(0, len(knots) - 1 - 1e-4, points)
    index, t = at.long(), (at - at.floor())[:, None]
    a, b, c, d = (knot[index + shift] for shift in range(4))
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)


def reflected(cut: Cut) -> Cut:
    """The same on the other side of x = 0."""
    return Cut(*mirrored((cut.vertices, cut.faces)), cut.flow)


def at_hairline(skull: Skull, lower: float = 0.0) -> ByAzimuth:
    """Ends on the hairline; the forehead's at least `lower` degrees from the crown."""

    def end(azimuth: Tensor) -> Tensor:
        limit = hairline(azimuth)
        limit = torch.where(azimuth.abs() < 0.94, limit.clamp(min=math.radians(lower)), limit)
        return skull.surface(direction(azimuth, limit), 0.0)[..., 1]

    return end


def falling(skull: Skull, height: float, parting: float, lower: float = 0.0, rise: float = 0.0) -> ByAzimuth:
    """Ends on the hairline before `parting` degrees, and at `height` beyond, `rise` higher at the back."""
    front = at_hairline(skull, lower)

    def end(azimuth: Tensor) -> Tensor:
        share = smooth(azimuth.abs().rad2deg(), parting - 6, parting + 5)
        level = height + rise * smooth(azimuth.abs(), 1.0, math.pi)
        return front(azimuth.clamp(-0.93, 0.93)).lerp(level, share)

    return end


def tapered(height: float, edge: float = 0.25, least: float = 0.3) -> Volume:
    """One height, less within `edge` radians of the hairline."""

    def volume(azimuth: Tensor, polar: Tensor) -> Tensor:
        return height * (least + (1 - least) * smooth(hairline(azimuth) - polar, 0.0, edge))

    return volume


def _short(azimuth: Tensor, polar: Tensor) -> Tensor:
    top = 1 - smooth(polar, 0.6, 1.7)
    front = torch.exp(-((azimuth / 0.8) ** 2)) * smooth(polar, 0.2, 0.9)
    return (0.1 + 0.1 * top + 0.1 * front) * (0.35 + 0.65 * smooth(hairline(azimuth) - polar, 0.0, 0.2))


def _quiff(azimuth: Tensor, polar: Tensor) -> Tensor:
    wave = torch.exp(-((azimuth / 0.75) ** 2)) * torch.exp(-(((polar - 0.75) / 0.42) ** 2))
    sides = 0.05 + 0.1 * (1 - smooth(polar, 0.5, 1.2))
    edge = 0.4 + 0.6 * smooth(hairline(azimuth) - polar, 0.0, 0.2)
    return sides * edge + 0.5 * wave


def _parted(height: float, wide: float) -> Volume:
    """A groove along the middle of the front, and room for the ears."""

    def volume(azimuth: Tensor, polar: Tensor) -> Tensor:
        groove = torch.exp(-((azimuth * polar.sin() / 0.09) ** 2)) * (azimuth.abs() < 1.5)
        ears = torch.exp(-(((azimuth.abs() - 1.5) / 0.5) ** 2)) * smooth(polar, 0.9, 1.6)
        hairy = hairline(azimuth.clamp(-0.9, 0.9)) - polar
        front = (1 - smooth(azimuth.abs(), 0.6, 1.0)) * (1 - smooth(hairy, -0.1, 0.35))
        return (height + wide * ears) * (1 - 0.7 * groove) * (1 - 0.55 * front)

    return volume


def _afro(skull: Skull) -> Volume:
    centre, size = torch.tensor([0.0, 7.82, 0.08]), 1.26

    def volume(azimuth: Tensor, polar: Tensor) -> Tensor:
        out = direction(azimuth, polar)
        offset = HEAD_CENTRE - centre
        along = (out * offset).sum(-1)
        sphere = -along + (along**2 - (offset**2).sum() + size**2).sqrt()
        room = (sphere - skull.radius(out)).clamp(min=0.1)
        return room * (0.25 + 0.75 * ramp(hairline(azimuth) - polar, 0.0, 0.55) ** 0.6)

    return volume


_CREST = ((-0.26, -0.08), (-0.23, 0.2), (-0.12, 0.5), (0.0, 0.62), (0.12, 0.5), (0.23, 0.2), (0.26, -0.08))
"""Sideways, and height over the skin."""


def _crest(skull: Skull) -> Cut:
    """A mohawk: a fin over the middle of the head, with spikes."""
    along = torch.linspace(-1.0, 2.05, 27)
    profile = torch.sin((along + 1.0) / 3.05 * math.pi).clamp(min=0) ** 0.4
    spikes = 1 + 0.16 * torch.cos(along * 13)
    rows = []
    for side, height in _CREST:
        out = normalize(torch.stack([torch.full_like(along, side), along.cos(), -along.sin()], 1), dim=1)
        tall = height * (spikes if height > 0.2 else 1) * profile
        rows.append(skull.surface(out, torch.where(profile > 0.01, tall, -0.08)))
    vertices, faces = grid(torch.stack(rows))
    around = torch.linspace(0, math.pi, len(along)).repeat(7)
    lift = torch.tensor([7.0, 7.4, 8.0, 8.4, 8.0, 7.4, 7.0]).repeat_interleave(len(along))
    return Cut(vertices, faces, torch.stack([around.sin(), lift, around.cos() + 0.2], 1))


def _bun() -> Cut:
    """A ball with a swirl of strands."""
    vertices, faces = ball((0.0, 0.0, 0.0), 1.0, 11)
    around = torch.atan2(vertices[:, 0], vertices[:, 2]) + 1.1 * vertices[:, 1]
    size = 0.43 * (1 + 0.06 * torch.cos(7 * around))
    flow = torch.stack([around.sin(), 7.5 + vertices[:, 1], around.cos() + 0.2], 1)
    shape = size[:, None] * torch.tensor([1.0, 0.86, 1.0])
    return Cut(vertices * shape + torch.tensor([0.0, 8.66, -0.05]), faces, flow)


def _tail() -> Cut:
    """A high tail that swings to the figure's left."""
    knots = [
        (0.0, 8.1, -0.2),
        (0.02, 8.62, -0.5),
        (0.12, 8.62, -0.98),
        (0.36, 7.85, -1.22),
        (0.9, 7.0, -0.95),
        (1.42, 6.1, -0.35),
    ]
    way = torch.linspace(0, 1, 22)
    radius = 0.2 + 0.2 * torch.sin(math.pi * way.clamp(max=0.9) ** 0.75) - 0.24 * ramp(way, 0.7, 1.0)
    band = torch.exp(-(((way - 0.13) / 0.04) ** 2))
    return strand(curve(knots, 22), radius * (1 - 0.25 * band), 12, relief=0.1)


def _braid() -> Cut:
    """A braid from behind the left ear over the front of the shoulder, with a tuft under its tie."""
    knots = [(0.6, 7.2, -0.25), (0.95, 6.8, -0.2), (1.16, 6.3, 0.15), (1.16, 5.75, 0.85), (0.98, 5.25, 1.3)]
    way = torch.linspace(0, 1, 36)
    bulge = 0.62 + 0.38 * torch.sin(way * 7 * math.pi).abs() ** 0.6
    cut = strand(curve(knots, 36), 0.24 * bulge * (1 - 0.15 * way), 8, relief=0.05)
    around = torch.atan2(cut.flow[:, 0], cut.flow[:, 2] - 0.2) / 3
    zigzag = 0.5 * torch.asin(torch.sin(7 * math.pi * (8.4 - cut.flow[:, 1]) / 3))
    around = around + zigzag * around.sign()
    return cut._replace(flow=torch.stack([0.9 * around.sin(), cut.flow[:, 1], 0.9 * around.cos() + 0.2], 1))


def haircuts(skull: Skull) -> dict[str, Cut]:
    """Every cut of `looks.ATTRIBUTES["hair"]` that is not bald."""
    line = at_hairline(skull)
    slick = drape(skull, tapered(0.11, 0.3), line, cling=1.0, rows=11, locks=0.03, count=15)
    parted = drape(skull, _parted(0.13, 0.0), line, cling=1.0, rows=11, locks=0.03, count=13)
    braid = _braid()
    return {
        "buzz cut": drape(skull, tapered(0.045, 0.08, 0.6), line, cling=1.0),
        "short": drape(skull, _short, line, cling=1.0, locks=0.08, count=9, bumps=0.06, frequency=7.0),
        "quiff": drape(skull, _quiff, line, cling=1.0, locks=0.05, count=9, columns=64),
        "bob": drape(
            skull,
            _parted(0.2, 0.18),
            falling(skull, 6.2, 50, lower=73, rise=0.35),
            parting=50,
            rows=17,
            locks=0.06,
            tips=0.12,
            cling=0.35,
            curl=0.2,
        ),
        "long": drape(
            skull,
            _parted(0.2, 0.16),
            falling(skull, 4.95, 55),
            parting=55,
            rows=19,
            columns=58,
            locks=0.08,
            tips=0.15,
            cling=0.3,
        ),
        "ponytail": join(slick, _tail()),
        "bun": join(slick, _bun()),
        "afro": drape(skull, _afro(skull), line, rows=16, cling=1.0, bumps=0.06, frequency=11.0, columns=70),
        "mohawk": _crest(skull),
        "curly": drape(
            skull,
            _parted(0.3, 0.1),
            falling(skull, 6.65, 52, lower=64),
            parting=52,
            rows=17,
            columns=64,
            bumps=0.17,
            frequency=9.5,
            cling=0.6,
            tips=0.15,
            count=8,
            curl=0.15,
        ),
        "braids": join(parted, braid, reflected(braid)),
    }
