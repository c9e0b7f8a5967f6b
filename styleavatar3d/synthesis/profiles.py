"""How long a picture takes on a device, and how many bytes it has: the tables of `data/profiles.yaml`, read strictly.

A step is one call of the UNet and its ControlNets on a batch (twice its pictures with classifier-free guidance). Its
time is its TFLOP, counted on the architectures, over the rate that the device was measured at for calls of that size.
Nothing here needs a network, a GPU or torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from styleavatar3d.assets import assets
from styleavatar3d.config import Strict, read_yaml, suggest, validate
from styleavatar3d.errors import StyleAvatarError

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Table = Annotated[dict[Positive, Positive], Field(min_length=1)]
"""x -> y, to be interpolated"""
_TILE = 512
_TAR_BLOCK = 512
_TAR_RECORD = 20 * _TAR_BLOCK


class Work(Strict):
    """TFLOP of one pass of one picture: linear * x + quadratic * x^2 with x = (side / 512)^2."""

    linear: float = Field(ge=0)
    quadratic: float = Field(ge=0)

    def tflop(self, side: int) -> float:
        x = (side / _TILE) ** 2
        return self.linear * x + self.quadratic * x * x


class FamilyWork(Strict):
    """The networks of a family of models; `side` is the size of the pictures it was trained on, in pixels."""

    side: int
    unet: Work
    controlnet: Work
    decoder: Work


class Device(Strict):
    """`rate`: TFLOP in one call -> TFLOP/s, between the sizes that were measured."""

    rate: Table
    source: Literal["measured", "published", "estimated"]
    note: str
    where: str = ""
    aliases: tuple[str, ...] = ()
    memory: float = Field(default=0, ge=0)
    """GiB"""
    dollars: float = Field(ge=0)
    """an hour"""
    unit: Literal["GPU", "core"] = "GPU"
    startup: float = Field(default=120, ge=0)
    """seconds until a worker's first picture: container, imports, weights; assumed"""

    def seconds(self, tflop: float) -> float:
        """Time of one call with this much work."""
        known = max(tflop, min(self.rate))
        return known / interpolate(self.rate, min(known, max(self.rate)))


class Bytes(Strict):
    """Bytes of each part by side; `record` is the JSON."""

    photograph: dict[Literal["image.png", "image.jpg"], Table]
    render: dict[Literal["image.png", "image.jpg"], Table]
    guidance: dict[str, Table]
    record: int


class Host(Strict):
    """Seconds of one core a picture, by side: rendering the guidance, and encoding all that is stored."""

    guidance: Table
    encoding: Table


class Limits(Strict):
    put_per_second: Positive
    get_per_second: Positive
    list_page: int = Field(ge=1)
    results_per_second: Positive
    get_seconds: Positive
    readers: int = Field(ge=1)
    shard_seconds: Positive
    near: float = Field(gt=0, le=1)


class Prices(Strict):
    gigabyte_month: float = Field(ge=0)
    thousand_puts: float = Field(ge=0)
    thousand_gets: float = Field(ge=0)


class Profiles(Strict):
    families: dict[str, FamilyWork]
    devices: dict[str, Device]
    bytes: Bytes
    host: Host
    limits: Limits
    prices: Prices


class Drawing(NamedTuple):
    """What decides how long a picture takes."""

    family: str
    side: int
    steps: int
    controlnets: Sequence[float]
    """share of the steps in which each ControlNet takes part"""
    guided: bool
    """classifier-free guidance: every picture passes twice"""
    batch: int


@cache
def profiles() -> Profiles:
    """The parsed `data/profiles.yaml`."""
    path = assets() / "data" / "profiles.yaml"
    return validate(Profiles, read_yaml(path), source=str(path))


def find_device(name: str, devices: Mapping[str, Device] | None = None) -> tuple[str, Device]:
    """A device of the table by name or alias, as drivers call it too; StyleAvatarError if there is none."""
    devices = profiles().devices if devices is None else devices
    asked = name.strip().lower()
    for key, device in devices.items():
        if asked in (key, *device.aliases):
            return key, device
    longer = [
        (len(alias), key) for key, device in devices.items() for alias in (key, *device.aliases) if alias in asked
    ]
    if longer:
        key = max(longer)[1]
        return key, devices[key]
    raise StyleAvatarError(
        "there is no profile of this device",
        got=name,
        expected=", ".join(devices),
        remedy=f"{suggest(asked, devices)} Or run `styleavatar3d plan --plan.measure true` on it",
    )


def seconds_per_picture(drawing: Drawing, device: Device) -> float:
    """Seconds that the networks take for a picture of a full batch; text is cached, and small beside it."""
    if drawing.family not in profiles().families:
        raise StyleAvatarError(
            "how much work this model does is not known",
            got=drawing.family or "no model.family",
            expected=", ".join(profiles().families),
            remedy="give model.family, or run `styleavatar3d plan --plan.measure true` where the model is",
        )
    family = profiles().families[drawing.family]
    rows = drawing.batch * (2 if drawing.guided else 1)
    parts = family.unet.tflop(drawing.side) + sum(drawing.controlnets) * family.controlnet.tflop(drawing.side)
    step = device.seconds(rows * parts)
    decode = device.seconds(drawing.batch * family.decoder.tflop(drawing.side))
    return (drawing.steps * step + decode) / drawing.batch


def host_seconds(side: int, encoding: bool) -> float:
    """Seconds of a core a picture beside the networks; encoding overlaps with the next batch where a GPU draws it."""
    host = profiles().host
    return interpolate(host.guidance, side) + (interpolate(host.encoding, side) if encoding else 0.0)


def picture_bytes(side: int, image: Literal["image.png", "image.jpg"], kinds: Sequence[str], rendered: bool) -> int:
    """Bytes that a picture takes in a shard: its parts, each with a tar header and filled up to whole blocks.

    Args:
        kinds: guidance that is stored with it
        rendered: it is of the miniature world, whose pictures are plain
    """
    table = profiles().bytes
    image_table = (table.render if rendered else table.photograph)[image]
    guidance = [table.guidance.get(kind, table.guidance["other"]) for kind in kinds]
    parts = [interpolate(one, side) for one in (image_table, table.guidance["mask"], *guidance)]
    return sum(_TAR_BLOCK + math.ceil(part / _TAR_BLOCK) * _TAR_BLOCK for part in (*parts, table.record))


def shard_bytes(pictures: int, each: float) -> int:
    """Bytes of a tar: two empty blocks end it, and it is filled up to whole records of 20 blocks."""
    return math.ceil((pictures * each + 2 * _TAR_BLOCK) / _TAR_RECORD) * _TAR_RECORD


def interpolate(table: Mapping[float, float], x: float) -> float:
    """y at x, linear between the table's points on logarithmic axes, and beyond them with the slope of the last two."""
    points = sorted(table.items())
    if len(points) == 1:
        return points[0][1]
    pairs = list(zip(points, points[1:], strict=False))
    (x0, y0), (x1, y1) = next((pair for pair in pairs if x <= pair[1][0]), pairs[-1])
    share = (math.log(x) - math.log(x0)) / (math.log(x1) - math.log(x0))
    return math.exp(math.log(y0) + share * (math.log(y1) - math.log(y0)))
