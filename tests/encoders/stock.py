"""Tiny models with random weights of every family of encoders, in folders as the hub has them."""

from pathlib import Path
from typing import Any

import torch

from styleavatar3d.encoders.tokenizer import build_tokenizer

TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
WORDS = ["a man woman robot alien with red blue hair glasses in clay style"]


def write_clip(folder: Path) -> Path:
    """Bicubic to the shortest edge, the middle cut out, norms of its own; a vocabulary of bytes."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    torch.manual_seed(0)
    pieces = [piece + end for end in ("", "</w>") for piece in bytes_to_unicode().values()]
    vocabulary = {piece: i for i, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    text = TOWER | {
        "vocab_size": len(vocabulary), "max_position_embeddings": 77, "eos_token_id": len(vocabulary) - 1,
        "bos_token_id": len(vocabulary) - 2, "pad_token_id": len(vocabulary) - 1,
    }  # fmt: skip
    config = CLIPConfig(text_config=text, vision_config=TOWER | {"image_size": 32, "patch_size": 8}, projection_dim=12)
    CLIPModel(config).save_pretrained(folder)
    CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77).save_pretrained(folder)
    sides: Any = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPImageProcessorPil(**sides).save_pretrained(folder)
    return folder


def write_siglip(folder: Path) -> Path:
    """Bilinear to a square, colours as they are; texts padded to one length."""
    from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel

    torch.manual_seed(1)
    tokenizer = build_tokenizer(WORDS, 16)
    text = TOWER | {"vocab_size": len(tokenizer), "max_position_embeddings": 16, "projection_size": 16}
    vision = TOWER | {"image_size": 32, "patch_size": 8}
    SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor: Any = SiglipImageProcessorPil(
        size={"height": 32, "width": 32}, resample=2, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    processor.save_pretrained(folder)
    return folder


def write_dinov2(folder: Path, registers: bool = False) -> Path:
    """Bicubic to a size of which less than all is kept; the model knows places of another size. No texts."""
    from transformers import (
        BitImageProcessorPil,
        Dinov2Config,
        Dinov2Model,
        Dinov2WithRegistersConfig,
        Dinov2WithRegistersModel,
    )

    torch.manual_seed(2)
    tower: Any = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes: Any = {"image_size": 70, "patch_size": 14}
    model = (
        Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**tower, **sizes, num_register_tokens=2))
        if registers
        else Dinov2Model(Dinov2Config(**tower, **sizes))
    )
    model.save_pretrained(folder)
    processor: Any = BitImageProcessorPil(
        size={"shortest_edge": 48}, crop_size={"height": 42, "width": 42}, resample=3,
        image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225], do_convert_rgb=True,
    )  # fmt: skip
    processor.save_pretrained(folder)
    return folder
