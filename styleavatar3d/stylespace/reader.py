"""What the front view of a code would show, without rendering it: its CLIP embedding and its attributes.

Sampling a code takes a fraction of the time that rendering one does, so many candidates are drawn, and only those that
the reader likes are rendered. It learns from the same pairs as the denoiser.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from styleavatar3d.stylespace.attributes import split


class Reading(NamedTuple):
    """Of each code."""

    image: Float[Tensor, "batch clip"]
    """The embedding of its front view, with mean zero and spread one."""
    words: Float[Tensor, "batch words"]
    """Logits of the words that the estimator would read off it."""


class CodeReader(nn.Module):
    """Two hidden layers on a standard code."""

    def __init__(self, w_dim: int, tokens: int, clip_dim: int, words: int, width: int):
        super().__init__()
        self.sizes = (clip_dim, words)
        self.layers = nn.Sequential(
            nn.Linear(tokens * w_dim, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, sum(self.sizes)),
        )

    def forward(self, standard: Float[Tensor, "batch tokens w"]) -> Reading:
        return Reading(*self.layers(standard.flatten(1)).split(self.sizes, 1))

    def loss(
        self,
        standard: Float[Tensor, "batch tokens w"],
        image: Float[Tensor, "batch clip"],
        words: Float[Tensor, "batch words"] | None,
    ) -> Float[Tensor, ""]:
        """Squared error of the embedding, and mean cross-entropy with the probabilities of an estimator's logits."""
        read = self(standard)
        loss = F.mse_loss(read.image, image)
        if words is None:
            return loss
        told = zip(split(read.words).values(), split(words).values(), strict=True)
        return loss + torch.stack([F.cross_entropy(guess, truth.softmax(1)) for guess, truth in told]).mean()
