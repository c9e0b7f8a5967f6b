"""The one switch of attention: PyTorch's own, or xformers' where it runs."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from styleavatar3d.errors import StyleAvatarError, require

Attention = Literal["auto", "sdpa", "xformers"]
"""auto is xformers' memory-efficient attention where it runs, else PyTorch's scaled dot product"""


def choose_attention(choice: str, device: str, width: int = 64, number: torch.dtype = torch.float16) -> str:
    """ "sdpa" or "xformers", by a real call of the latter on heads of this width and number format.

    Raises:
        StyleAvatarError: xformers is asked for and does not run there
    """
    trouble = None if choice == "sdpa" else _trouble_with_xformers(device, width, number)
    if choice == "xformers" and trouble:
        raise StyleAvatarError(
            f"xformers' attention does not run on this machine: {trouble}",
            got=f"model.attention xformers on {device}",
            expected="a CUDA GPU, and an xformers built for this PyTorch",
            remedy="model.attention sdpa",
        )
    return "sdpa" if choice == "sdpa" or trouble else "xformers"


def attend(
    query: Float[Tensor, "batch tokens heads width"],
    key: Float[Tensor, "batch tokens heads width"],
    value: Float[Tensor, "batch tokens heads width"],
    attention: str = "sdpa",
) -> Float[Tensor, "batch tokens heads width"]:
    """softmax(query key^T / sqrt(width)) value for each head, by what `choose_attention` said."""
    if attention == "xformers":
        return require("xformers.ops", "gpu").memory_efficient_attention(query, key, value)
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2)


def _trouble_with_xformers(device: str, width: int, number: torch.dtype) -> str | None:
    """Why a real call fails, or None. That it can be imported says nothing: it imports without its kernels too."""
    if not device.startswith("cuda") or not torch.cuda.is_available():
        return "it needs CUDA"
    try:
        few = torch.zeros(1, 8, 1, width, device=device, dtype=number)
        require("xformers.ops", "gpu").memory_efficient_attention(few, few, few)
    except (StyleAvatarError, NotImplementedError, RuntimeError, ValueError, AttributeError) as error:
        return str(error).splitlines()[0]
    return None
