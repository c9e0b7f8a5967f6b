"""Does the style prior find the avatar that a prompt or a picture asks for?"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from styleavatar3d.bench.held_out import HELD_OUT, portrait, show, signed, tell
from styleavatar3d.camera.cameras import orbit_labels
from styleavatar3d.encoders.families import open_encoder
from styleavatar3d.figures.looks import WORDS, draw_look, visible_attributes
from styleavatar3d.gan.generator import Generator
from styleavatar3d.metrics.alignment import stated
from styleavatar3d.metrics.distribution import top1_retrieval
from styleavatar3d.metrics.judge import Judge
from styleavatar3d.miniature.renders import draw_style
from styleavatar3d.runtime.random import normal

_BATCH = 25
_NOT_ASKED = -1


def against_the_best(folder: Path, judge: Judge, prompts: int, codes: int, seed: int) -> dict[str, float]:
    """The share of a prompt's stated attributes that the judge finds in the front view of its avatar, beside that of
    the best of `codes` random ones, which is picked for each prompt by the judge itself."""
    from styleavatar3d.avatar.pipelines import AvatarPipeline

    pipeline: Any = AvatarPipeline.from_pretrained(folder)
    stated_words, fronts = [], []
    for index in range(prompts):
        prompt, words = asked(seed, index)
        stated_words.append(words)
        fronts.append(signed(pipeline(prompt=prompt, seed=index).views(front(1))[0]))
        tell("avatars of prompts", index + 1, prompts)
    wanted = numbers(stated_words)
    own = right(wanted, numbers(judge.judge(torch.stack(fronts)).words)).diagonal()
    random = right(wanted, random_fronts(pipeline.generator, judge, codes, seed))
    best = random.amax(1)
    table = {
        "prompts": prompts, "avatars": round(own.mean().item(), 3),
        f"best of {codes}": round(best.mean().item(), 3), "random": round(random.mean().item(), 3),
        "ratio": round((own.mean() / best.mean().clamp(min=1e-6)).item(), 3),
    }  # fmt: skip
    show("prompt -> avatar: stated attributes that the judge finds, and their ratio to the best", [table])
    return table


def asked(seed: int, index: int) -> tuple[str, dict[str, str]]:
    """A held-out prompt, and what it states."""
    from styleavatar3d.synthesis.prompts import compose

    look, style = draw_look(seed + HELD_OUT, index), draw_style(seed + HELD_OUT, index)
    return compose(look, style, 0.0, 0.0).text, stated(visible_attributes(look, style, 0.0) | {"style": style})


@torch.inference_mode()
def random_fronts(generator: Generator, judge: Judge, count: int, seed: int) -> Int[Tensor, "count heads"]:
    """What the judge says of the front views of random avatars, truncation 1."""
    said: list[dict[str, str]] = []
    for first in range(0, count, _BATCH):
        size = min(_BATCH, count - first)
        z = normal(seed, "random codes", first, (size, generator.config.z_dim)).to(generator.w_mean)
        said += judge.judge(generator(z, front(size)).image.cpu()).words
        tell("random codes", first + size, count)
    return numbers(said)


def numbers(words: Sequence[dict[str, str]]) -> Int[Tensor, "count heads"]:
    """Words as their places in the vocabulary; -1 for what is not asked."""
    return torch.tensor(
        [[WORDS[name].index(said[name]) if name in said else _NOT_ASKED for name in WORDS] for said in words]
    )


def right(asked: Int[Tensor, "prompts heads"], said: Int[Tensor, "codes heads"]) -> Float[Tensor, "prompts codes"]:
    """For each prompt, the share of what it asks for that each avatar has."""
    same = torch.stack([(one == said).sum(1) for one in asked])
    return same / (asked != _NOT_ASKED).sum(1, keepdim=True)


def retrieval(folder: Path, count: int, seed: int) -> dict[str, float]:
    """How often a held-out picture is nearer, by CLIP, to its own avatar than to those of the others."""
    from styleavatar3d.avatar.pipelines import AvatarPipeline

    pipeline: Any = AvatarPipeline.from_pretrained(folder)
    clip = open_encoder(folder / "clip")
    pictures, fronts = [], []
    for index in range(count):
        picture = portrait(index, seed)
        avatar = pipeline(image=picture.movedim(0, -1).numpy(), seed=index)
        fronts.append(avatar.views(front(1))[0])
        pictures.append(picture)
        tell("avatars of pictures", index + 1, count)
    asked, found = clip.images(signed(torch.stack(pictures))), clip.images(signed(torch.stack(fronts)))
    own = top1_retrieval(asked - asked.mean(0), found - found.mean(0))
    table = {"pictures": count, "right": round(own, 3), "chance": round(1 / count, 3)}
    show("picture -> avatar: its own among all", [table])
    return table


def front(count: int) -> Float[Tensor, "count 25"]:
    """Labels of as many front views."""
    return orbit_labels(torch.zeros(count), torch.zeros(count))
