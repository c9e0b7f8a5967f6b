"""The architectures of the public models, as their configs state them: what is known of them without their weights.

`FAMILIES` writes down the values of the `config.json` files of stable-diffusion-v1-5, stable-diffusion-2-1 and
stable-diffusion-xl-base-1.0 that are not the classes' defaults, and the number of parameters that each part has there.
`tiny` keeps a family's wiring (levels, layers, where attention is, one text tower or two) and takes away its width.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from styleavatar3d.errors import StyleAvatarError

PARTS = ("unet", "controlnet", "vae", "text_encoder", "text_encoder_2")

_CLIP_L: dict[str, Any] = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "hidden_act": "quick_gelu", "projection_dim": 768, "vocab_size": 49408,
}  # fmt: skip
_OPEN_CLIP_H: dict[str, Any] = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16,
    "hidden_act": "gelu", "projection_dim": 512, "vocab_size": 49408,
}  # fmt: skip
_OPEN_CLIP_BIGG: dict[str, Any] = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
    "hidden_act": "gelu", "projection_dim": 1280, "vocab_size": 49408,
}  # fmt: skip
_VAE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4,
}  # fmt: skip
_NOISE: dict[str, Any] = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False,
    "set_alpha_to_one": False, "steps_offset": 1,
}  # fmt: skip
_CLIP_L_PARAMETERS, _VAE_PARAMETERS = 123_060_480, 83_653_863


class Family(NamedTuple):
    """One family: the size it draws, its parts' configs and how many parameters they have."""

    size: int
    unet: dict[str, Any]
    vae: dict[str, Any]
    towers: tuple[dict[str, Any], ...]
    noise: dict[str, Any]
    parameters: dict[str, int]


FAMILIES = {
    "sd15": Family(
        512,
        {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
        {**_VAE, "sample_size": 512, "scaling_factor": 0.18215},
        (_CLIP_L,),
        {**_NOISE, "prediction_type": "epsilon"},
        {
            "unet": 859_520_964, "controlnet": 361_279_120, "vae": _VAE_PARAMETERS, "text_encoder": _CLIP_L_PARAMETERS,
        },
    ),
    "sd21": Family(
        768,
        {
            "sample_size": 96, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20),
            "use_linear_projection": True, "upcast_attention": True,
        },
        {**_VAE, "sample_size": 768, "scaling_factor": 0.18215},
        (_OPEN_CLIP_H,),
        {**_NOISE, "prediction_type": "v_prediction"},
        {
            "unet": 865_910_724, "controlnet": 364_228_240, "vae": _VAE_PARAMETERS, "text_encoder": 340_387_840,
        },
    ),
    "sdxl": Family(
        1024,
        {
            "sample_size": 128, "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20),
            "use_linear_projection": True, "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10), "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
        },
        {**_VAE, "sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True},
        (_CLIP_L, _OPEN_CLIP_BIGG),
        {**_NOISE, "prediction_type": "epsilon"},
        {
            "unet": 2_567_463_684, "controlnet": 1_251_014_160, "vae": _VAE_PARAMETERS,
            "text_encoder": _CLIP_L_PARAMETERS, "text_encoder_2": 694_659_840,
        },
    ),
}  # fmt: skip


def check_family(name: str, unet: Mapping[str, Any]) -> None:
    """Raise StyleAvatarError unless a UNet's config is that of the family."""
    for field, value in FAMILIES[name].unet.items():
        found = unet[field]
        if field != "sample_size" and found != (list(value) if isinstance(found, list) else value):
            raise StyleAvatarError(
                f"the pipeline is not of the family {name}", got=f"unet {field} {found}", expected=f"{field} {value}",
                remedy="mend model.family, or leave it out",
            )  # fmt: skip


def tiny(name: str, width: int = 32, vocabulary: int = 600) -> Family:
    """The family at a width of 32 and 64 channels and two short text towers, pictures of 64 px: seconds on a CPU."""
    family = FAMILIES[name]
    levels = len(family.unet.get("block_out_channels", (0,) * 4))
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
             "projection_dim": 16, "vocab_size": vocabulary, "pad_token_id": 0, "bos_token_id": 1,
             "eos_token_id": 3}  # fmt: skip
    unet = family.unet | {
        "sample_size": 8, "block_out_channels": (width,) + (2 * width,) * (levels - 1),
        "cross_attention_dim": 16 * len(family.towers),
    }  # fmt: skip
    if not isinstance(unet["attention_head_dim"], int):  # the number of heads a level, whatever the key says
        unet["attention_head_dim"] = (2, 4, 4, 4)[:levels]
    if "addition_time_embed_dim" in unet:
        unet |= {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 16 + 6 * 8,
                 "transformer_layers_per_block": (1, 1, 2)}  # fmt: skip
    vae = family.vae | {"block_out_channels": (8, 8, 16, 16), "norm_num_groups": 8, "sample_size": 64}
    towers = tuple({**tower, **small} for tower in family.towers)
    return family._replace(size=64, unet=unet, vae=vae, towers=towers, parameters={})


def build(family: Family) -> dict[str, Any]:
    """The parts of a family, by their names in a pipeline, with random weights on the default device.

    Under `torch.device("meta")` nothing is allocated, whatever the size.
    """
    from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    shared = {key: value for key, value in family.unet.items() if key not in ("sample_size", "up_block_types")}
    parts = {
        "unet": UNet2DConditionModel(**family.unet),
        "controlnet": ControlNetModel(**shared),
        "vae": AutoencoderKL(**family.vae),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**family.towers[0])),
        "scheduler": DDIMScheduler(**family.noise),
    }
    if len(family.towers) == 2:
        parts["text_encoder_2"] = CLIPTextModelWithProjection(CLIPTextConfig(**family.towers[1]))
    return parts


def build_pipeline(family: Family, tokenizer: Any) -> tuple[Any, Any]:
    """The diffusers pipeline of a family and a ControlNet for it, with random weights.

    A ControlNet begins with zeros in its last convolutions and would change nothing; these are drawn at random too.
    """
    import torch
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    parts = build(family)
    controlnet = parts.pop("controlnet")
    for layer in (*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block):
        torch.nn.init.normal_(layer.weight, std=0.1)
    if "text_encoder_2" in parts:
        return StableDiffusionXLPipeline(
            **parts, tokenizer=tokenizer, tokenizer_2=tokenizer, add_watermarker=False
        ), controlnet
    unused: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return StableDiffusionPipeline(**parts, tokenizer=tokenizer, **unused), controlnet
