"""A prior whose pictures and texts are read by two encoders, from pairs to avatars; and what it refuses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from encoders.stock import write_clip, write_dinov2, write_siglip

from styleavatar3d.avatar.pipelines import AvatarPipeline
from styleavatar3d.config import load_config, validate
from styleavatar3d.encoders.families import open_bridge
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.stylespace import codes
from styleavatar3d.stylespace.config import StyleSpaceConfig
from styleavatar3d.stylespace.diffusion import StylePrior
from styleavatar3d.stylespace.train import train

PICTURE = np.full((8, 8, 3), 200, np.uint8)


def config(folder: Path, **data) -> StyleSpaceConfig:
    return validate(StyleSpaceConfig, {
        "run": {"out": str(folder / "run")},
        "data": {"generator": str(folder / "generator"), "clip": str(folder / "clip"), "codes": str(folder / "codes"),
                 "text_encoder": str(folder / "text_encoder"), "estimators": str(folder / "estimators"),
                 "count": 8, "held_out": 2, "crops": 2, "texts": 2, "chunk": 8, "batch": 4} | data,
        "model": {"layers": 1, "width": 16},
        "train": {"kpairs": 0.008, "batch": 4, "warmup_kpairs": 0, "ema_kpairs": 0.02},
        "track": {"retrieval": 2},
    })  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DINOv2 for pictures, SigLIP for texts, and a prior trained on what they say."""
    root = tmp_path_factory.mktemp("bridged")
    tiny.write_generator(root / "generator")
    tiny.write_estimator(root / "estimators")
    write_dinov2(root / "clip")
    write_siglip(root / "text_encoder")
    (root / "clip" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    train(config(root))
    shutil.copytree(root / "run" / "weights", root / "stylespace")
    return root


def test_pictures_and_texts_keep_spaces_of_their_own(tmp_path: Path):
    tiny.write_generator(tmp_path / "generator")
    tiny.write_estimator(tmp_path / "estimators")
    write_dinov2(tmp_path / "clip")
    write_clip(tmp_path / "text_encoder")
    assert codes.make(config(tmp_path))["modality_gap"] is None
    _, pairs, statistics = codes.load(str(tmp_path / "codes"))
    assert pairs["embeddings"].shape == (8, 2, 16) and pairs["texts"].shape == (8, 2, 12)
    assert statistics.image_from_text.shape == (12, 16)


def test_a_prior_knows_its_encoders_and_their_licences(folder: Path):
    bridge = open_bridge(folder / "clip", folder / "text_encoder")
    prior = StylePrior.from_pretrained(folder / "stylespace", encoders=bridge.identity)
    assert {role: model.sha256 for role, model in prior.encoders.items()} == bridge.identity
    assert prior.encoders["image"].licence == "apache-2.0" and prior.encoders["text"].licence == "not stated"
    assert "apache-2.0" in (folder / "stylespace" / "README.md").read_text()


def test_avatars_come_of_pictures_and_of_texts_through_the_bridge(folder: Path):
    pipeline = AvatarPipeline.from_pretrained(folder)
    for asked in ({"prompt": "a robot with blue hair"}, {"image": PICTURE}):
        avatar = pipeline(**asked, candidates=2)
        assert torch.isfinite(avatar.codes).all() and -1 <= avatar.provenance["request"]["likeness"] <= 1


def test_other_encoders_are_refused(folder: Path, tmp_path: Path):
    other = shutil.copytree(folder, tmp_path / "other", ignore=shutil.ignore_patterns("codes", "run"))
    shutil.rmtree(other / "text_encoder")
    with pytest.raises(StyleAvatarError, match=r"(?s)another encoder of texts.*encoder none"):
        AvatarPipeline.from_pretrained(other)
    write_clip(other / "text_encoder")
    with pytest.raises(StyleAvatarError, match=r"(?s)another encoder of texts.*text_encoder@local"):
        AvatarPipeline.from_pretrained(other)
    started = config(folder, codes=str(tmp_path / "codes"), text_encoder=str(other / "text_encoder"))
    model = started.model.model_copy(update={"start": str(folder / "stylespace")})
    with pytest.raises(StyleAvatarError, match="another encoder of texts"):
        train(started.model_copy(update={"model": model, "run": started.run.model_copy(update={"out": str(tmp_path)})}))


def test_what_cannot_read_or_compare_texts_is_refused(folder: Path, tmp_path: Path):
    with pytest.raises(StyleAvatarError, match=r"(?s)reads no texts.*data\.text_encoder"):
        codes.make(config(folder, codes=str(tmp_path), text_encoder=""))
    with pytest.raises(StyleAvatarError, match=r"(?s)likeness.*data\.estimators"):
        codes.make(config(folder, codes=str(tmp_path), estimators=""))
    with pytest.raises(StyleAvatarError, match=r"(?s)must name its commit.*openai/clip-vit"):
        codes.make(config(folder, codes=str(tmp_path), clip="openai/clip-vit-large-patch14"))
    pinned = f"openai/clip-vit-large-patch14@{'0' * 40}"
    with pytest.raises(StyleAvatarError, match=r"(?s)cannot be had.*offline.*hf download"):
        codes.make(config(folder, codes=str(tmp_path), clip=pinned, offline=True))


def test_a_prior_from_before_encoders_were_recorded_opens(tmp_path: Path):
    tiny.write_pipeline(tmp_path)
    about = json.loads((tmp_path / "stylespace" / "config.json").read_text())
    del about["text_dim"]
    assert "encoders" not in about
    (tmp_path / "stylespace" / "config.json").write_text(json.dumps(about))
    assert AvatarPipeline.from_pretrained(tmp_path).prior.encoders is None


def test_the_shipped_pairs_keep_their_name():
    """Settings that came later do not change what has been made before."""
    shipped = load_config(StyleSpaceConfig, "stylespace/miniature")
    sha256 = json.loads(Path("data/miniature/stylespace/config.json").read_text())["generator_sha256"]
    assert codes.recipe_of(shipped, sha256) == "2f4ffc4a4d3f"
