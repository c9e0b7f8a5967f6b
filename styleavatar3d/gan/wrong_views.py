"""Data that lies about its cameras as synthesised views do, by a known amount: for measuring what bears it."""

import torch
from jaxtyping import Float
from torch import Tensor

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.runtime.random import generator


def wrong_labels(labels: Float[Tensor, "count 25"], share: float, seed: int) -> Float[Tensor, "count 25"]:
    """Labels in which `share` of the pictures, chosen by `seed`, have the camera of another picture.

    The chosen hand theirs on in a ring, so the cameras of the whole stay what they were, each as often.
    Raises StyleAvatarError for a share outside [0, 1], and for one that comes to a single picture.
    """
    if not 0 <= share <= 1:
        raise StyleAvatarError("that is no share of the pictures", got=share, expected="a number in [0, 1]")
    count = round(share * len(labels))
    if count == 1:
        raise StyleAvatarError(
            "one picture alone cannot have another's label", got=f"{share} of {len(labels)}", expected="two or more"
        )
    chosen = torch.randperm(len(labels), generator=generator(seed, "wrong views"))[:count]
    wrong = labels.clone()
    wrong[chosen] = labels[chosen.roll(1)]
    return wrong
