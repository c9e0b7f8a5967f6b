"""Between avatars: codes mixed slot by slot, and a film of a walk through several while the camera orbits."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from styleavatar3d.avatar.avatar import MOST_FRAMES, Avatar
from styleavatar3d.avatar.files import write_whole
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.gan.generator import mix_styles
from styleavatar3d.runtime.media import mp4
from styleavatar3d.runtime.weights import weights_sha256

_PITCH = 5.0


def mix(coarse: Avatar, fine: Avatar, first: int) -> Avatar:
    """The shapes of one and, from slot `first` on, the colours and details of another (StyleGAN, section 3.1)."""
    slots = coarse.generator.config.slots
    _same_generator([coarse, fine])
    if not 0 <= first <= slots:
        raise StyleAvatarError("there is no such slot", got=first, expected=f"0 (all of the second) to {slots} (none)")
    codes = mix_styles(coarse.codes[None], fine.codes[None], first)[0]
    request = {"mix": [one.provenance.get("request", {}) for one in (coarse, fine)], "first": first}
    return Avatar(codes, coarse.generator, {**coarse.provenance, "request": request})


def between(avatars: Sequence[Avatar], frames: int) -> Float[Tensor, "frames slots w"]:
    """Codes on the way through all avatars in turn and back to the first, slower near each of them than between."""
    _same_generator(avatars)
    if len(avatars) < 2 or not 2 <= frames <= MOST_FRAMES:
        raise StyleAvatarError(
            "this is no walk", got=f"{len(avatars)} avatars, {frames} frames",
            expected=f"at least two avatars, 2 to {MOST_FRAMES} frames",
        )  # fmt: skip
    stops = torch.stack([avatar.codes for avatar in [*avatars, avatars[0]]])
    place = torch.arange(frames) * (len(avatars) / frames)
    before, way = place.long(), place.frac()
    way = (way * way * (3 - 2 * way)).to(stops)[:, None, None]
    return torch.lerp(stops[before], stops[before + 1], way)


@torch.inference_mode()
def walk(
    avatars: Sequence[Avatar], frames: int = 96, size: int | None = None, turns: int = 1
) -> UInt8[Tensor, "frames 3 size size"]:
    """Pictures of the walk while the camera goes `turns` times around; the last leads back to the first."""
    if not 0 <= turns <= 20:
        raise StyleAvatarError("the camera cannot turn so often", got=turns, expected="0 to 20 turns")
    codes, generator = between(avatars, frames), avatars[0].generator
    labels = generator.orbit(torch.arange(frames) * (360.0 * turns / frames), torch.full((frames,), _PITCH))
    steps = [Avatar(code, generator).views(label[None], size) for code, label in zip(codes, labels, strict=True)]
    return torch.cat(steps)


def write_walk(
    path: str | Path,
    avatars: Sequence[Avatar],
    frames: int = 96,
    size: int | None = None,
    turns: int = 1,
    fps: int = 24,
) -> Path:
    """The walk as an MP4, which loops without a jump. The size must be even."""
    if Path(path).suffix.lower() != ".mp4":
        raise StyleAvatarError("a walk is written as MP4", got=str(path), expected="a name that ends in .mp4")
    return write_whole(path, mp4(walk(avatars, frames, size, turns), fps))


def _same_generator(avatars: Sequence[Avatar]) -> None:
    names = {weights_sha256(avatar.generator) for avatar in avatars if avatar.generator is not avatars[0].generator}
    if names - {weights_sha256(avatars[0].generator)}:
        raise StyleAvatarError("these avatars belong to different generators", expected="avatars of one pipeline")
