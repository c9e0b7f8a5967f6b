"""The miniature pipeline is an ordinary diffusers folder, and its tokenizer an ordinary tokenizer."""

from pathlib import Path
from typing import Any

import pytest
import torch

from styleavatar3d.encoders.tokenizer import build_tokenizer
from styleavatar3d.miniature.models import GUIDES, MiniatureModels, build_clip, text_tower


def test_stock_diffusers_loads_and_runs_the_folder(diffusion: Path) -> None:
    from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

    controlnets = [ControlNetModel.from_pretrained(diffusion / "controlnets" / kind) for kind in GUIDES]
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(
        diffusion, controlnet=controlnets, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    options: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "pt"}
    options["image"] = [torch.rand(2, 3, 64, 64)] * 2
    twice = [
        pipeline(["a blue alien", "an old man"], generator=torch.Generator().manual_seed(0), **options).images
        for _ in range(2)
    ]
    assert twice[0].shape == (2, 3, 64, 64)
    assert torch.isfinite(twice[0]).all()
    assert torch.equal(*twice)


def test_shipped_sizes_fit_their_budgets() -> None:
    from styleavatar3d.miniature.models import build_codec, build_controlnet, build_unet

    sizes = MiniatureModels()
    budgets = {build_codec: 1.5, build_unet: 11, build_controlnet: 5}
    for build, megabytes in budgets.items():
        assert sum(p.numel() for p in build(sizes).parameters()) * 2 <= megabytes * 1e6, build.__name__


def test_tokens_are_whole_words_in_lower_case_with_hyphens_split() -> None:
    tokenizer = build_tokenizer(["t-shirt", "blue", "alien"], 16)
    assert tokenizer.tokenize("A T-shirt, BLUE alien!") == [
        "<|unknown|>", "t", "-", "shirt", ",", "blue", "alien", "!",
    ]  # fmt: skip


def test_tokenizer_survives_saving(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = build_tokenizer(["blue", "alien"], 16)
    tokenizer.save_pretrained(tmp_path)
    options = {"padding": "max_length", "truncation": True, "max_length": 16}
    text = "blue alien " * 20
    assert AutoTokenizer.from_pretrained(tmp_path)(text, **options).input_ids == tokenizer(text, **options).input_ids
    assert AutoTokenizer.from_pretrained(tmp_path).model_max_length == 16


def test_every_prompt_word_is_known() -> None:
    from styleavatar3d.encoders.prompts import unknown_words
    from styleavatar3d.figures.looks import STYLES, draw_look
    from styleavatar3d.synthesis.prompts import compose, vocabulary

    tokenizer = build_tokenizer(vocabulary(), MiniatureModels().tokens)
    prompts = [compose(draw_look(0, i), STYLES[i % 10], 37.0 * i - 180, i % 40 - 15) for i in range(100)]
    assert not [word for prompt in prompts for word in unknown_words(tokenizer, prompt.text + " " + prompt.negative)]
    assert max(len(tokenizer(prompt.text).input_ids) for prompt in prompts) <= MiniatureModels().tokens


def test_text_encoder_is_the_clip_text_tower() -> None:
    tokenizer = build_tokenizer(["blue", "alien"], 16)
    clip = build_clip(MiniatureModels(text_width=16, text_layers=1, image_width=16, image_layers=1, heads=2), tokenizer)
    tokens = tokenizer(["blue alien"], return_tensors="pt", padding="max_length", max_length=16).input_ids
    with torch.no_grad():
        expected = clip.eval().text_model(tokens).last_hidden_state
        assert torch.equal(text_tower(clip)(tokens).last_hidden_state, expected)


@pytest.mark.parametrize("tokens", [0, 7])
def test_too_few_tokens_are_refused(tokens: int) -> None:
    with pytest.raises(ValueError, match="tokens"):
        MiniatureModels(tokens=tokens)
