"""Walks between avatars and mixtures of them."""

import imageio.v2 as imageio
import pytest
import tiny
import torch

from styleavatar3d.avatar.avatar import Avatar
from styleavatar3d.avatar.generate import mix as mix_files
from styleavatar3d.avatar.generate import walk as walk_files
from styleavatar3d.avatar.pipelines import AvatarPipeline
from styleavatar3d.avatar.walk import between, mix, walk, write_walk
from styleavatar3d.errors import StyleAvatarError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="module")
def avatars(folder) -> list[Avatar]:
    return AvatarPipeline.from_pretrained(folder, seeds_only=True)(seed=range(3), truncation=1.0)


def test_a_walk_stops_at_every_avatar_and_comes_back(avatars):
    codes = between(avatars, 12)
    for stop, avatar in enumerate(avatars):
        torch.testing.assert_close(codes[4 * stop], avatar.codes)
    torch.testing.assert_close(codes[2], (avatars[0].codes + avatars[1].codes) / 2)
    torch.testing.assert_close(codes[10], (avatars[2].codes + avatars[0].codes) / 2)
    steps = (codes.roll(-1, 0) - codes).flatten(1).norm(dim=1)
    assert steps[0] < steps[1] and steps[3] < steps[2]


def test_the_film_shows_the_avatars_from_all_around(avatars, folder, tmp_path):
    frames = walk(avatars, 6, 32)
    assert frames.shape == (6, 3, 32, 32)
    still = walk(avatars, 6, 32, turns=0)
    assert torch.equal(frames[0], still[0]) and not torch.equal(frames[2], still[2])
    assert len(imageio.mimread(write_walk(tmp_path / "walk.mp4", avatars, 6, 32))) == 6
    paths = [str(one.save(tmp_path / f"{i}.safetensors")) for i, one in enumerate(avatars[:2])]
    assert walk_files(paths, str(tmp_path / "two.mp4"), 4, 32, model=str(folder))["frames"] == 4
    mixed = mix_files(*paths, 2, str(tmp_path / "mixed"), 32, 0, 0, str(folder))
    assert "avatar.safetensors" in mixed["files"]


def test_a_mixture_has_the_coarse_slots_of_one_and_the_fine_of_the_other(avatars):
    one, other = avatars[:2]
    mixed = mix(one, other, 2)
    assert torch.equal(mixed.codes[:2], one.codes[:2]) and torch.equal(mixed.codes[2:], other.codes[2:])
    assert mixed.provenance["request"]["first"] == 2 and mixed.provenance["licences"] == one.provenance["licences"]
    assert torch.equal(mix(one, other, 0).codes, other.codes)


def test_walks_and_mixtures_that_mean_nothing_are_refused(avatars, tmp_path):
    with pytest.raises(StyleAvatarError, match="no walk"):
        walk(avatars[:1], 8)
    with pytest.raises(StyleAvatarError, match="no walk"):
        walk(avatars, 1)
    with pytest.raises(StyleAvatarError, match="MP4"):
        write_walk(tmp_path / "walk.gif", avatars)
    with pytest.raises(StyleAvatarError, match="no such slot"):
        mix(*avatars[:2], 99)
    stranger = Avatar(avatars[0].codes, tiny.write_generator(tmp_path / "other", seed=9))
    for call in (lambda: mix(avatars[0], stranger, 2), lambda: walk([avatars[0], stranger], 4)):
        with pytest.raises(StyleAvatarError, match="different generators"):
            call()
