"""The switch of attention in diffusers' networks."""

from typing import Any

from styleavatar3d.runtime.attention import choose_attention


def use_attention(choice: str, networks: list[Any], device: str) -> str:
    """Set the attention of these networks and return which it is, "sdpa" or "xformers".

    Raises:
        StyleAvatarError: xformers is asked for and does not run there
    """
    chosen = choose_attention(choice, device)
    if chosen == "xformers":
        for network in networks:
            network.enable_xformers_memory_efficient_attention()
        return chosen
    from diffusers.models.attention_processor import AttnProcessor2_0

    for network in networks:
        if hasattr(network, "set_attn_processor"):
            network.set_attn_processor(AttnProcessor2_0())
    return chosen
