"""Counter-based random numbers: a draw depends on (run seed, purpose, index) and on nothing else.

Rank, worker, resume point and time never matter, so there is no generator state to save.
"""

import hashlib

import torch
from jaxtyping import Float
from torch import Tensor


def key(seed: int, purpose: str, index: int = 0) -> int:
    """A 63-bit seed for one draw."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """A CPU generator for the draw named (seed, purpose, index)."""
    return torch.Generator().manual_seed(key(seed, purpose, index))


def uniform(seed: int, purpose: str, index: int, count: int) -> Float[Tensor, "count"]:
    """`count` numbers in [0, 1) for the draw named (seed, purpose, index)."""
    return torch.rand(count, generator=generator(seed, purpose, index))


def normal(seed: int, purpose: str, first: int, shape: tuple[int, ...]) -> Float[Tensor, "..."]:
    """Standard normal numbers of `shape`; row i belongs to index `first + i`, whatever the batch it is drawn in."""
    rows = [torch.randn(shape[1:], generator=generator(seed, purpose, first + i)) for i in range(shape[0])]
    return torch.stack(rows)
