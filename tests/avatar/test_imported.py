"""Imported generators of the three families make avatars from seeds, through the same call and the same verb."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gan.originals import CONFIGS, network, state_dict_file

from styleavatar3d import cli
from styleavatar3d.avatar.avatar import Avatar
from styleavatar3d.avatar.pipelines import AvatarPipeline
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.gan.generator import Generator
from styleavatar3d.gan.imports import import_generator
from styleavatar3d.runtime.licences import stated_licences
from styleavatar3d.runtime.media import to_uint8
from styleavatar3d.runtime.storage import Storage


@pytest.fixture(scope="module", params=CONFIGS)
def folder(request, tmp_path_factory) -> Path:
    """What `styleavatar3d import` writes of a small original, dense enough for a surface."""
    place, original = tmp_path_factory.mktemp(request.param), network(request.param)
    original.decoder.net[2].bias[0] += 30
    import_generator(str(state_dict_file(place, original)), str(place / "generator"), request.param)
    return place / "generator"


def test_the_verb_makes_every_file_of_a_seed(folder, tmp_path, capsys):
    words = ["--seeds", "0-1", "--model", str(folder), "--out", str(tmp_path), "--size", "16"]
    cli.main(["generate", *words, "--mesh", "16", "--json"])
    made = json.loads(capsys.readouterr().out.splitlines()[-1])["avatars"]
    wanted = {"front.png", "left.png", "right.png", "back.png", "turntable.mp4", "avatar.glb", "avatar.safetensors"}
    assert len(made) == 2 and all(wanted <= set(avatar["files"]) for avatar in made)
    licences = json.loads((tmp_path / "seed-0000/provenance.json").read_text())["licences"]
    assert licences == stated_licences(Storage.open(str(folder)))
    assert any("eg3d" in licence for licence in licences)


def test_the_front_is_the_originals_front(folder):
    avatar, original = AvatarPipeline.from_pretrained(folder)(seed=3), Generator.from_pretrained(str(folder))
    label, codes = original.front_label(1), avatar.codes[None]
    view = original.render(original.planes(codes), label, codes=codes)
    assert np.array_equal(np.asarray(avatar.render()), to_uint8(view.image)[0].permute(1, 2, 0).numpy())
    volume = original.render(original.planes(codes), label, 10, codes=codes, super_resolution=False)
    assert np.array_equal(np.asarray(avatar.render(size=10)), to_uint8(volume.raw)[0].permute(1, 2, 0).numpy())


def test_many_cameras_share_one_volume(folder):
    avatar = AvatarPipeline.from_pretrained(folder)(seed=0)
    around = avatar.generator.orbit(torch.tensor([0.0, 120.0]), torch.tensor([5.0, -20.0]))
    both = avatar.views(around, 8)
    assert torch.equal(both[0], avatar.views(around[:1], 8)[0]) and torch.equal(both[1], avatar.views(around[1:], 8)[0])


def test_the_mesh_ends_where_pictures_do(folder):
    avatar = AvatarPipeline.from_pretrained(folder)(seed=0)
    config = avatar.generator.config
    edge = torch.tensor([[[0.0, 0.0, 0.0], [config.box * 0.48, 0.0, 0.0]]])
    _, density = avatar.generator.seen_field(avatar.planes, edge, avatar.codes[None])
    _, uncropped = avatar.generator.field(avatar.planes, edge, avatar.codes[None])
    assert density[0, 0] == uncropped[0, 0]
    assert density[0, 1] == (0 if config.rendering.crop else uncropped[0, 1])


def test_an_avatar_file_comes_back_and_prompts_are_refused_with_the_reason(folder, tmp_path):
    pipeline = AvatarPipeline.from_pretrained(folder)
    avatar = pipeline(seed=1)
    again = Avatar.load(avatar.save(tmp_path / "a.safetensors"), pipeline.generator)
    assert torch.equal(again.codes, avatar.codes)
    with pytest.raises(StyleAvatarError, match="no style prior") as raised:
        pipeline(prompt="an old man")
    assert "imported one cannot have" in str(raised.value)
