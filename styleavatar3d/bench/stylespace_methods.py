"""Ways from a picture or a prompt to an avatar: the style prior's own, and those that it has to be better than."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import cos, pi
from typing import Any

import torch
from torch import Tensor

from styleavatar3d.avatar.avatar import Avatar
from styleavatar3d.avatar.pictures import read_picture
from styleavatar3d.avatar.requests import Request
from styleavatar3d.runtime.random import normal

Method = Callable[[Any, Request], Avatar]
"""of a pipeline and a request with a seed"""
RANDOM, FIT_STEPS = 64, 200
_RATE, _ALIKE = 0.05, 0.3
"""of Adam, in standard units of the codes; and what a cosine of one is worth in differences of colour (0 to 2)"""


def ranked(pipeline: Any, request: Request, count: int = RANDOM) -> Avatar:
    """The best of random codes of the mapping network, ranked as the pipeline ranks its candidates."""
    z = normal(request.seed, "random codes", 0, (count, pipeline.generator.config.z_dim))
    return pipeline.choose(request, pipeline.generator.mapping(z.to(pipeline.generator.w_mean)))


def sampled(pipeline: Any, request: Request, steps: int) -> Avatar:
    """As the pipeline does it, in `steps` steps of the prior."""
    return pipeline.make(replace(request, steps=steps))[0]


def inverted(pipeline: Any, request: Request, steps: int = FIT_STEPS) -> Avatar:
    """A code fitted to the request's picture, from the mean code: colours, and what CLIP sees in the front view."""
    generator, statistics = pipeline.generator, pipeline.prior.statistics
    given: Any = request.image
    picture = read_picture(given, generator.config.image_resolution)[None].to(generator.w_mean)
    wanted = statistics.image(pipeline.clip.images(picture))
    front = generator.orbit(torch.zeros(1), torch.zeros(1)).to(picture)
    standard = torch.zeros_like(statistics.w_mean)[None, None].requires_grad_()
    adam = torch.optim.Adam([standard])

    def codes() -> Tensor:
        return statistics.code(standard).expand(-1, generator.config.slots, -1)

    for step in range(steps):
        adam.param_groups[0]["lr"] = _RATE * (1 + cos(pi * step / steps)) / 2
        code = codes()
        view = generator.render(generator.planes(code), front, codes=code).image
        alike = torch.cosine_similarity(statistics.image(pipeline.clip.traced(view)), wanted).mean()
        adam.zero_grad()
        ((view - picture).abs().mean() + _ALIKE * (1 - alike)).backward()
        adam.step()
    return Avatar(codes()[0].detach(), generator)


PRIOR = {f"prior, {steps} steps": partial(sampled, steps=steps) for steps in (8, 50)}
BEST = {f"{RANDOM} random codes, ranked": ranked}
FIT = {f"inversion, {FIT_STEPS} steps": inverted}
OF_PICTURES: dict[str, Method] = {**BEST, **PRIOR, **FIT}
OF_PROMPTS: dict[str, Method] = {"a random code": partial(ranked, count=1), **BEST, **PRIOR}
