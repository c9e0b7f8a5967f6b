"""The one switch of attention: PyTorch's own, or xformers' where it runs."""

from typing import Any

import torch

from styleavatar3d.errors import StyleAvatarError, require

CHOICES = ("auto", "sdpa", "xformers")


def use_attention(choice: str, networks: list[Any], device: str) -> str:
    """Set the attention of these networks and return which it is, "sdpa" or "xformers".

    "auto" is xformers where a real call of it succeeds on `device`, else PyTorch's scaled dot product.

    Raises:
        StyleAvatarError: xformers is asked for and does not run there
    """
    if choice == "xformers" or (choice == "auto" and _trouble_with_xformers(device) is None):
        if trouble := _trouble_with_xformers(device):
            raise StyleAvatarError(
                f"xformers' attention does not run on this machine: {trouble}",
                got=f"model.attention xformers on {device}",
                expected="a CUDA GPU, and an xformers built for this PyTorch",
                remedy="model.attention sdpa",
            )
        for network in networks:
            network.enable_xformers_memory_efficient_attention()
        return "xformers"
    from diffusers.models.attention_processor import AttnProcessor2_0

    for network in networks:
        if hasattr(network, "set_attn_processor"):
            network.set_attn_processor(AttnProcessor2_0())
    return "sdpa"


def _trouble_with_xformers(device: str) -> str | None:
    """Why a real call fails, or None. That it can be imported says nothing: it imports without its kernels too."""
    if not device.startswith("cuda") or not torch.cuda.is_available():
        return "it needs CUDA"
    try:
        attend = require("xformers.ops", "gpu").memory_efficient_attention
        few = torch.zeros(1, 8, 1, 64, device=device, dtype=torch.float16)
        attend(few, few, few)
    except (StyleAvatarError, NotImplementedError, RuntimeError, AttributeError) as error:
        return str(error).splitlines()[0]
    return None
