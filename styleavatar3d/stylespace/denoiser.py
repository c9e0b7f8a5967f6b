"""The network of the style prior: unCLIP's prior transformer, over a style code instead of an image embedding."""

from typing import TYPE_CHECKING

from styleavatar3d.stylespace.config import DenoiserConfig

if TYPE_CHECKING:
    from diffusers.models.transformers.prior_transformer import PriorTransformer

_TOKENS = 4
"""condition, time, noisy code, and the query whose output is the answer"""


def build_denoiser(config: DenoiserConfig, w_dim: int, clip_dim: int) -> "PriorTransformer":
    """A PriorTransformer with random weights that maps (noisy w [N, w], time [N], embedding [N, clip]) to [N, w].

    There is no text sequence: text enters as one embedding of the joint space (StyleAvatar3D, section 3.4).
    """
    from diffusers.models.transformers.prior_transformer import PriorTransformer

    return PriorTransformer(
        num_attention_heads=config.heads,
        attention_head_dim=config.head_width,
        num_layers=config.layers,
        embedding_dim=w_dim,
        embedding_proj_dim=clip_dim,
        num_embeddings=0,
        additional_embeddings=_TOKENS,
        encoder_hid_proj_type=None,
    )
