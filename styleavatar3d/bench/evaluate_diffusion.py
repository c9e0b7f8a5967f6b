"""Does the diffusion model draw the view and the attributes that it is asked for?"""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from styleavatar3d.bench.held_out import World, show, signed, tell
from styleavatar3d.metrics.alignment import Score, faces_at_the_back, scores_of, yaw_errors
from styleavatar3d.metrics.judge import Judge
from styleavatar3d.runtime.random import key

STEPS, SCALE = 10, 2.0
_BATCH = 25


def table(folder: Path, judge: Judge, pairs: int, seed: int) -> dict[str, Any]:
    """What the judge finds in pictures synthesised for held-out captions and cameras, and in the renders themselves.

    "face at the back": how many of the pictures asked for from behind (|yaw| >= 135) show a face all the same.
    """
    world = World.render(pairs, seed)
    made, true = (judge.judge(signed(images)) for images in (synthesize(folder, world, seed), world.images))
    errors = {"made": yaw_errors(made, world.yaw), "renders": yaw_errors(true, world.yaw)}
    backs = {"made": faces_at_the_back(made, world.yaw), "renders": faces_at_the_back(true, world.yaw)}
    found, possible = scores_of(made, world.requests), scores_of(true, world.requests)
    rows = [row("face at the back", backs["made"], backs["renders"])]
    rows += [row(name, score, possible[name]) for name, score in found.items()]
    show(f"diffusion: {pairs} held-out captions and cameras, by the judge", rows)
    show("yaw of what it draws, degrees from the camera's", [{"of": of, **each} for of, each in errors.items()])
    return {"yaw": errors["made"], "yaw of renders": errors["renders"], **{each["asked"]: each for each in rows}}


def row(name: str, found: Score, possible: Score) -> dict[str, Any]:
    return {
        "asked": name, "count": found.count, "share": round(found.share, 3), "chance": round(found.chance, 3),
        "in renders": round(possible.share, 3),
    }  # fmt: skip


def synthesize(folder: Path, world: World, seed: int) -> UInt8[Tensor, "count 3 height width"]:
    """The diffusion model's pictures of what is in these renders: their captions, depth and key points."""
    from styleavatar3d.synthesis.pipeline import Synthesizer
    from styleavatar3d.synthesis.prompts import compose

    synthesizer = Synthesizer.from_pretrained(folder / "diffusion", device="cpu", dtype="bfloat16")
    poses = {
        "depth": world.data["depth_rgb"].movedim(1, -1).expand(-1, -1, -1, 3),
        "keypoints": world.data["keypoints_rgb"].movedim(1, -1),
    }
    prompts = [compose(*shown) for shown in world.shown]
    made = []
    for first in range(0, len(prompts), _BATCH):
        some = prompts[first : first + _BATCH]
        which = slice(first, first + len(some))
        made.append(synthesizer.generate(
            [prompt.text for prompt in some], [prompt.negative for prompt in some],
            {kind: pictures[which] for kind, pictures in poses.items()},
            [key(seed, "evaluate", first + i) for i in range(len(some))], STEPS, SCALE,
        ))  # fmt: skip
        tell("synthesised", which.stop, len(prompts))
    return torch.cat(made).movedim(-1, 1)
