"""The network of the style prior: a diffusion transformer (arXiv:2212.09748) over the slots of a style code.

One token a slot. In w all slots are equal, so there is one token, nothing to attend to, and the transformer is a
residual network. Time and conditions steer every layer through its norm, scale and gate.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from styleavatar3d.errors import ConfigError, StyleAvatarError
from styleavatar3d.runtime.attention import attend, choose_attention

CONDITIONS = ("image", "text", "attributes")
_FREQUENCIES = 64


class Conditions(NamedTuple):
    """What is known of each row: embeddings with mean zero and spread one, and a column of ones for each word stated.

    A condition that `present` marks with 0 is unknown, whatever stands in its place.
    """

    image: Float[Tensor, "batch clip"]
    text: Float[Tensor, "batch text"]
    attributes: Float[Tensor, "batch words"]
    present: Float[Tensor, "batch 3"]

    def only(self, *names: str) -> "Conditions":
        """The same with every other condition unknown."""
        kept = torch.tensor([float(name in names) for name in CONDITIONS], device=self.present.device)
        return self._replace(present=self.present * kept)

    def joined(self) -> Float[Tensor, "batch numbers"]:
        """Everything as one row of numbers; zeros where a condition is unknown."""
        parts = [part * self.present[:, i : i + 1] for i, part in enumerate(self[:3])]
        return torch.cat([*parts, self.present], 1)

    @staticmethod
    def together(several: "list[Conditions]") -> "Conditions":
        """The rows of several, one after the other."""
        return Conditions(*(torch.cat(parts) for parts in zip(*several, strict=True)))


class Denoiser(nn.Module):
    """(noisy code, time in 0..1000, conditions) -> what the noise schedule wants: noise, code or velocity."""

    def __init__(self, w_dim: int, tokens: int, embedded: int, words: int, width: int, layers: int, heads: int):
        """`embedded`: length of a picture's and a text's embedding together."""
        super().__init__()
        if width % heads:
            raise StyleAvatarError(
                "the heads do not share the width", got=f"{width} / {heads}", expected="a whole number"
            )
        self.time = nn.Sequential(nn.Linear(2 * _FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        known = embedded + words + len(CONDITIONS)
        self.condition = nn.Sequential(nn.Linear(known, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
        self.enter = nn.Linear(w_dim, width)
        self.place = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.blocks = nn.ModuleList(_Block(width, heads if tokens > 1 else 0) for _ in range(layers))
        self.steer = nn.Linear(width, 2 * width)
        self.leave = nn.Linear(width, w_dim)
        for layer in (self.steer, self.leave):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def use_attention(self, choice: str, number: torch.dtype = torch.float32) -> str:
        """Attend between slots by "auto", "sdpa" or "xformers", in numbers of this format.

        Returns which it is. Raises StyleAvatarError if xformers is asked for where it does not run, or in w.
        """
        blocks: list[Any] = list(self.blocks)
        heads = blocks[0].heads
        if choice == "xformers" and not heads:
            raise ConfigError(
                "there is nothing to attend to in w", got="model.attention xformers with model.space w",
                expected="model.space w+, whose slots attend to each other", remedy="model.attention auto",
            )  # fmt: skip
        width = self.place.shape[1] // max(heads, 1)
        chosen = choose_attention(choice, self.place.device.type, width, number) if heads else "sdpa"
        for block in blocks:
            block.attention = chosen
        return chosen

    def forward(
        self, noisy: Float[Tensor, "batch tokens w"], time: Float[Tensor, "batch"], conditions: Conditions
    ) -> Float[Tensor, "batch tokens w"]:
        number = self.place.dtype  # half of it where the weights are halved
        steering = F.silu(self.time(waves(time).to(number)) + self.condition(conditions.joined().to(number)))[:, None]
        x = self.enter(noisy.to(number)) + self.place
        for block in self.blocks:
            x = block(x, steering)
        shift, scale = self.steer(steering).chunk(2, -1)
        return self.leave(_norm(x) * (1 + scale) + shift)


class _Block(nn.Module):
    """Attention (where there is more than one token) and a two-layer network, each beside the identity."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.attention = heads, "sdpa"
        if heads:
            self.attend_in, self.attend_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.inner = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
        self.steer = nn.Linear(width, (6 if heads else 3) * width)
        nn.init.zeros_(self.steer.weight)
        nn.init.zeros_(self.steer.bias)

    def forward(
        self, x: Float[Tensor, "batch tokens width"], steering: Float[Tensor, "batch 1 width"]
    ) -> Float[Tensor, "batch tokens width"]:
        shift, scale, gate, *more = self.steer(steering).chunk(6 if self.heads else 3, -1)
        if self.heads:
            x = x + more[2] * self._attend(_norm(x) * (1 + more[1]) + more[0])
        return x + gate * self.inner(_norm(x) * (1 + scale) + shift)

    def _attend(self, x: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        thirds = self.attend_in(x).chunk(3, -1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)) for part in thirds)
        return self.attend_out(attend(query, key, value, self.attention).flatten(2))


def waves(time: Float[Tensor, "batch"]) -> Float[Tensor, "batch numbers"]:
    """Sines and cosines of a time in 0..1000, of periods from 6 to 60,000."""
    frequency = torch.exp(torch.linspace(0, -9.2, _FREQUENCIES, device=time.device))
    angle = time.float()[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], 1)


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])
