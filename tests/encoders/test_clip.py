from pathlib import Path

import pytest
import torch

from styleavatar3d.encoders.clip import ClipEncoder
from styleavatar3d.encoders.tokenizer import build_tokenizer
from styleavatar3d.errors import StyleAvatarError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from styleavatar3d.miniature.models import MiniatureModels, build_clip

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = build_tokenizer(["a", "blue", "alien", "man"], 16)
    sizes = MiniatureModels(
        tokens=16, text_width=16, text_layers=1, image_width=16, image_layers=1, embedding=8, heads=2
    )
    build_clip(sizes, tokenizer).half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(folder: Path) -> ClipEncoder:
    return ClipEncoder.from_pretrained(folder)


def test_embeddings_are_unit_vectors_of_one_space(clip: ClipEncoder) -> None:
    images, texts = clip.images(torch.rand(3, 3, 64, 64) * 2 - 1), clip.texts(["a blue alien", "a man"])
    assert images.shape == (3, clip.dim) and texts.shape == (2, clip.dim)
    assert torch.allclose(torch.cat([images, texts]).norm(dim=1), torch.ones(5), atol=1e-5)


def test_other_sizes_are_resampled(clip: ClipEncoder) -> None:
    small = torch.rand(1, 3, 64, 64) * 2 - 1
    large = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.cosine_similarity(clip.images(small), clip.images(large)).item() > 0.99


def test_unknown_words_are_named_once_in_order(clip: ClipEncoder, caplog: pytest.LogCaptureFixture) -> None:
    assert clip.unknown("A zorp alien, Frob zorp!") == ["zorp", "frob"]
    clip.texts(["a zorp alien"])
    assert "zorp" in caplog.text


@pytest.mark.parametrize(
    ("prompt", "problem"),
    [("zorp frob", "no word"), ("", "no word"), ("?!,", "no word"), ("man " * 2500, "too long")],
    ids=["no known word", "empty", "punctuation", "10,000 characters"],
)
def test_unusable_prompts_are_refused(clip: ClipEncoder, prompt: str, problem: str) -> None:
    with pytest.raises(StyleAvatarError, match=problem):
        clip.texts([prompt])


def test_pictures_of_a_wrong_shape_are_refused(clip: ClipEncoder) -> None:
    with pytest.raises(StyleAvatarError, match="square"):
        clip.images(torch.zeros(1, 3, 64, 32))


def test_a_folder_without_clip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StyleAvatarError, match="no CLIP model"):
        ClipEncoder.from_pretrained(tmp_path)


def test_a_damaged_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(StyleAvatarError, match="cannot be read"):
        ClipEncoder.from_pretrained(tmp_path)
