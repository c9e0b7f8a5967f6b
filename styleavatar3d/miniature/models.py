"""The miniature world's models: ordinary `diffusers` and `transformers` classes at small sizes.

64 px images, 16x16 latents, a text tower of whole words. `save_pipeline` writes an ordinary `StableDiffusionPipeline`
folder with an ordinary `ControlNetModel` for each kind of guidance in `controlnets/KIND`, so the same code runs the
miniature and the full-size models.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from styleavatar3d.config import Strict
from styleavatar3d.encoders.tokenizer import build_tokenizer

IMAGE_SIZE, LATENT_SIZE = 64, 16
PATCH_NUMBERS = 3 * (IMAGE_SIZE // LATENT_SIZE) ** 2
LATENT_SCALE = 4.0
"""The codec's latents are this much smaller than the diffusion's: its decoder squashes what is beyond 3."""
GUIDES = ("depth", "keypoints")
"""What the ControlNets look at, one each."""


class MiniatureModels(Strict):
    """Sizes of the small models; the defaults are the shipped ones."""

    tokens: int = Field(default=48, ge=8)
    """length of a prompt in tokens, both ends included"""
    text_width: int = 128
    text_layers: int = 3
    image_width: int = 128
    image_layers: int = 4
    embedding: int = 128
    """size of the joint image-text space"""
    codec_width: int = 32
    """channels of the decoder"""
    codec_blocks: tuple[int, int, int] = (3, 3, 1)
    """residual blocks of the decoder at 16, 32 and 64 px"""
    latent_channels: int = Field(default=16, ge=1, le=48)
    unet_channels: tuple[int, int, int] = (64, 96, 128)
    unet_layers: int = 1
    heads: int = 4


def build_clip(config: MiniatureModels, tokenizer: Any) -> Any:
    """A random `CLIPModel`: 64 px in patches of 8, causal text tower pooled at the end token."""
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=config.tokens,
        hidden_size=config.text_width,
        intermediate_size=3 * config.text_width,
        num_hidden_layers=config.text_layers,
        num_attention_heads=config.heads,
        projection_dim=config.embedding,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    image = CLIPVisionConfig(
        hidden_size=config.image_width,
        intermediate_size=3 * config.image_width,
        num_hidden_layers=config.image_layers,
        num_attention_heads=config.heads,
        image_size=IMAGE_SIZE,
        patch_size=8,
        projection_dim=config.embedding,
    )
    return CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=image.to_dict(), projection_dim=config.embedding)
    )


def build_codec(config: MiniatureModels) -> Any:
    """An `AutoencoderTiny`: 64 px RGB in [-1, 1] to a 16x16 latent and back.

    Its encoder has no nonlinearity, so that it can be the linear transform of `train_codec.set_transform`.
    """
    from diffusers import AutoencoderTiny

    sizes: dict[str, Any] = {
        "encoder_block_out_channels": (PATCH_NUMBERS,) * 3,
        "num_encoder_blocks": (0, 0, 0),
        "decoder_block_out_channels": (config.codec_width,) * 3,
        "num_decoder_blocks": config.codec_blocks,
        "latent_channels": config.latent_channels,
        "scaling_factor": LATENT_SCALE,
    }
    return AutoencoderTiny(**sizes)


def build_unet(config: MiniatureModels) -> Any:
    """A random `UNet2DConditionModel` of 16x16 latents; attention where it is cheap, at 8x8 and 4x4.

    The whole caption is pooled into the time embedding too: colours and styles reach every layer.
    """
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2D",
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        out_channels=config.latent_channels,
        sample_size=LATENT_SIZE,
        addition_embed_type="text",
        addition_embed_type_num_heads=8,
        **_denoiser(config),
    )


def build_controlnet(config: MiniatureModels) -> Any:
    """A random `ControlNetModel` for 64 px pictures. Its embedding is /4: the default /8 misses a 16x16 latent.

    It has no attention: where things are is all that it has to say, the UNet reads the words.
    """
    from diffusers import ControlNetModel

    return ControlNetModel(
        down_block_types=("DownBlock2D",) * 3,
        mid_block_type="UNetMidBlock2D",
        conditioning_embedding_out_channels=(16, 32, 64),
        **_denoiser(config),
    )


def _denoiser(config: MiniatureModels) -> dict[str, Any]:
    return {
        "in_channels": config.latent_channels,
        "block_out_channels": config.unet_channels,
        "layers_per_block": config.unet_layers,
        "cross_attention_dim": config.text_width,
        "attention_head_dim": config.heads,
        "norm_num_groups": 16,
        "resnet_time_scale_shift": "scale_shift",
    }


def build_scheduler() -> Any:
    """v-prediction on a cosine schedule that ends in pure noise (zero terminal SNR, arXiv:2305.08891).

    10 to 12 steps do.
    """
    from diffusers import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        steps_offset=1,
        algorithm_type="dpmsolver++",
        solver_order=2,
        lower_order_final=True,
    )


def assemble(tokenizer: Any, tower: Any, codec: Any, unet: Any) -> Any:
    """The `StableDiffusionPipeline` of these parts."""
    from diffusers import StableDiffusionPipeline

    unused: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return StableDiffusionPipeline(
        vae=codec, text_encoder=tower, tokenizer=tokenizer, unet=unet, scheduler=build_scheduler(), **unused
    )


def save_pipeline(folder: str | Path, pipeline: Any, controlnets: Mapping[str, Any]) -> None:
    """Write the pipeline, and each ControlNet under `controlnets/KIND`."""
    pipeline.save_pretrained(folder)
    for kind, network in controlnets.items():
        network.save_pretrained(Path(folder) / "controlnets" / kind)


def text_tower(clip: Any) -> Any:
    """A stock `CLIPTextModel` that holds the weights of the text tower of `clip`."""
    from transformers import CLIPTextModel

    tower = CLIPTextModel(clip.config.text_config)
    tower.load_state_dict(clip.text_model.state_dict())
    return tower.eval()


def build_pipeline(config: MiniatureModels | None = None) -> tuple[Any, dict[str, Any]]:
    """The pipeline and its ControlNets with random weights, over the words that prompts can contain."""
    from styleavatar3d.synthesis.prompts import vocabulary

    config = config or MiniatureModels()
    tokenizer = build_tokenizer(vocabulary(), config.tokens)
    pipeline = assemble(tokenizer, text_tower(build_clip(config, tokenizer)), build_codec(config), build_unet(config))
    return pipeline, {kind: build_controlnet(config) for kind in GUIDES}
