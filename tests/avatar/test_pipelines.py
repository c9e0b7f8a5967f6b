"""From a prompt, a picture or a seed to an avatar and its files, with real classes at the smallest sizes."""

import json
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from styleavatar3d.avatar.avatar import Avatar
from styleavatar3d.avatar.generate import export, generate
from styleavatar3d.avatar.pipelines import AvatarPipeline
from styleavatar3d.avatar.ranking import score
from styleavatar3d.avatar.requests import Request
from styleavatar3d.camera.cameras import Camera
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.looks import WORDS
from styleavatar3d.stylespace.attributes import encode, share_shown, shown, split

PROMPT = "a blue alien with round glasses, clay style"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny.write_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="module")
def pipeline(folder) -> AvatarPipeline:
    return AvatarPipeline.from_pretrained(folder)


@pytest.fixture(scope="module")
def seeing(tmp_path_factory) -> AvatarPipeline:
    """The same with an estimator."""
    return AvatarPipeline.from_pretrained(tiny.write_pipeline(tmp_path_factory.mktemp("seeing"), estimator=True))


def test_one_request_gives_one_avatar_and_a_list_gives_a_list(pipeline):
    picture = Image.new("RGB", (40, 30), "red")
    for request in ({"prompt": PROMPT}, {"image": picture}, {"seed": 3}):
        [(kind, asked)] = request.items()
        one, several = pipeline(**request), pipeline(**{kind: [asked, asked]})
        assert isinstance(one, Avatar) and [type(avatar) for avatar in several] == [Avatar, Avatar]
        for avatar in several:
            torch.testing.assert_close(avatar.codes, one.codes)
        assert one.provenance["licences"] == ["not stated"] and one.provenance["made_by"].startswith("a machine")
    assert len(pipeline(seed=range(3))) == 3


def test_seeds_are_stable_and_truncation_leads_to_the_mean(pipeline, folder):
    codes = pipeline(seed=5, truncation=1.0).codes
    again = AvatarPipeline.from_pretrained(folder, seeds_only=True)(seed=5, truncation=1.0)
    torch.testing.assert_close(again.codes, codes)
    assert not torch.allclose(pipeline(seed=6, truncation=1.0).codes, codes)
    for request in ({"seed": 5}, {"prompt": PROMPT}):
        mean = pipeline(**request, truncation=0.0).codes
        torch.testing.assert_close(mean, pipeline.generator.w_mean.expand_as(mean))


def test_more_candidates_never_lower_the_likeness(pipeline):
    likeness = [pipeline(prompt=PROMPT, candidates=count).provenance["request"]["likeness"] for count in (1, 4, 16)]
    assert likeness == sorted(likeness)


def test_codes_from_elsewhere_are_ranked_like_candidates(pipeline):
    codes = torch.stack([pipeline(seed=seed, truncation=1.0).codes for seed in range(4)])
    request = Request(prompt=PROMPT)
    near = [pipeline.choose(request, code[None]).provenance["request"]["likeness"] for code in codes]
    best = pipeline.choose(request, codes)
    torch.testing.assert_close(best.codes, codes[near.index(max(near))])
    assert best.provenance["request"]["likeness"] == pytest.approx(max(near), abs=1e-3)


def test_views_cameras_and_sizes(pipeline):
    avatar = pipeline(seed=1, truncation=1.0)
    assert avatar.render().size == (64, 64) and avatar.render(size=48).size == (48, 48)
    front, side = np.asarray(avatar.render()), np.asarray(avatar.render(Camera.orbit(90.0)))
    assert (front != side).any()
    with pytest.raises(StyleAvatarError, match="cannot be rendered"):
        avatar.render(size=100_000)


def test_a_turntable_has_its_frames_and_starts_at_the_front(pipeline, tmp_path):
    avatar = pipeline(seed=1)
    path = avatar.turntable(tmp_path / "turn.mp4", frames=9, size=64)
    frames = imageio.mimread(path)
    assert len(frames) == 9 and frames[0].shape == (64, 64, 3)
    difference = np.abs(frames[0].astype(int) - np.asarray(avatar.render(Camera.orbit(0.0, 5.0), 64)).astype(int))
    assert difference.mean() < 12
    with pytest.raises(StyleAvatarError, match="MP4"):
        avatar.turntable(tmp_path / "turn.gif")


def test_an_avatar_file_opens_with_its_generator_only(pipeline, tmp_path):
    avatar = pipeline(seed=2)
    again = Avatar.load(avatar.save(tmp_path / "a.safetensors"), pipeline.generator)
    torch.testing.assert_close(again.codes, avatar.codes)
    assert again.provenance == avatar.provenance
    other = tiny.write_generator(tmp_path / "other", seed=9)
    with pytest.raises(StyleAvatarError, match="another generator"):
        Avatar.load(tmp_path / "a.safetensors", other)
    (tmp_path / "b.safetensors").write_bytes(b"nothing")
    for name in ("b.safetensors", "absent.safetensors"):
        with pytest.raises(StyleAvatarError, match="no avatar"):
            Avatar.load(tmp_path / name, pipeline.generator)


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"prompt": [PROMPT], "image": [np.zeros((4, 4, 3), np.uint8)] * 2},
        {"attributes": {"hairs": "bob"}},
        {"prompt": PROMPT, "negative": "xyzzy"},
        {"prompt": ""},
        {"prompt": "xyzzy plugh"},
        {"prompt": "man " * 2500},
        {"seed": 1, "truncation": 9.0},
        {"prompt": PROMPT, "candidates": 0},
        {"prompt": PROMPT, "guidance": -3.0},
        {"image": "absent.png"},
    ],
)
def test_bad_requests_are_refused(pipeline, request_):
    with pytest.raises(StyleAvatarError):
        pipeline(**request_)


def test_everything_that_is_given_is_followed_together(pipeline, seeing):
    picture = np.full((8, 8, 3), 200, np.uint8)
    settings = {"prompt": PROMPT, "candidates": 2, "truncation": 1.0}
    alone = pipeline(**settings)
    for more in (
        {"image": picture}, {"attributes": {"hair": "long"}}, {"negative": "a beard"}, {"guidance": 1.0},
        {"guidance": {"text": 6.0}}, {"seed": 4}, {"steps": 3},
    ):  # fmt: skip
        assert not torch.allclose(pipeline(**settings, **more).codes, alone.codes, atol=1e-4), more
    torch.testing.assert_close(pipeline(**settings, seed=0).codes, alone.codes)
    assert not torch.allclose(
        seeing(attributes={"hair": "long"}, candidates=1).codes, seeing(attributes={"hair": "bob"}, candidates=1).codes
    )


def test_a_number_of_avatars_are_those_of_the_seeds(pipeline):
    three = pipeline(prompt=PROMPT, number=3, seed=5, candidates=2)
    for i, avatar in enumerate(three):
        torch.testing.assert_close(avatar.codes, pipeline(prompt=PROMPT, seed=5 + i, candidates=2).codes)
        assert avatar.provenance["request"]["seed"] == 5 + i


def test_pictures_far_from_the_training_world_are_warned_of(pipeline):
    """The tiny prior was told that strangers are nearer than anything can be."""
    picture = np.full((8, 8, 3), 200, np.uint8)
    about = pipeline(image=picture, candidates=1).provenance["request"]
    assert "far from" in about["warning"] and -1 <= about["likeness"] <= 1
    assert "warning" not in pipeline(prompt=PROMPT, candidates=1).provenance["request"]


def test_an_edit_stays_nearer_to_its_start_the_weaker_it_is(seeing):
    start = seeing(seed=1, truncation=1.0)
    edits = [seeing(prompt="with a beard", start=start, strength=share, candidates=1) for share in (0.1, 0.4, 1.0)]
    gone = [float((edit.codes - start.codes).norm()) for edit in edits]
    assert gone == sorted(gone) and gone[0] < 0.5 * gone[2]
    assert edits[0].provenance["request"]["start"] == start.provenance["request"]
    with pytest.raises(StyleAvatarError, match="nothing that could be changed"):
        seeing(prompt="front view", start=start)


def test_an_edit_moves_along_the_difference_that_the_change_makes(seeing):
    """With one candidate, in the middle of its steps, of the picture-free draws of one seed."""
    start = seeing(seed=1, truncation=1.0)
    one, twice = (seeing(prompt="with a beard", start=start, strength=share, candidates=1) for share in (0.2, 0.4))
    torch.testing.assert_close(twice.codes - start.codes, 2 * (one.codes - start.codes), atol=1e-4, rtol=1e-4)
    assert "truncation" not in one.provenance["request"]


def test_an_edit_keeps_what_it_is_not_asked_for_rather_than_changing_more(seeing):
    start = seeing(seed=1, truncation=1.0)
    goal = seeing._goal(Request(prompt="with a beard", start=start))
    beards = list(WORDS).index("beard")
    parts = list(split(goal.before.shown).values())
    parts[beards] = split(encode([goal.changed]))["beard"]
    sure = torch.cat(parts, 1)
    changed_all = torch.cat([part if i == beards else part.roll(1, 1) for i, part in enumerate(parts)], 1)
    one, more = score(goal, torch.zeros(2), torch.cat([sure, changed_all]))
    assert one > more > score(goal, torch.zeros(1), goal.before.shown)


def test_towards_a_picture_an_edit_starts_from_the_avatar(seeing):
    start, picture = seeing(seed=1, truncation=1.0), np.full((8, 8, 3), 200, np.uint8)
    gone = [
        float((seeing(image=picture, start=start, strength=share, candidates=1).codes - start.codes).norm())
        for share in (0.1, 0.5, 1.0)
    ]
    assert gone == sorted(gone) and gone[0] > 0


def test_an_edit_needs_somebody_who_sees(pipeline):
    with pytest.raises(StyleAvatarError, match="without an estimator"):
        pipeline(prompt="with a beard", start=pipeline(seed=1))


def test_candidates_that_show_the_words_are_preferred(seeing):
    """By the estimator's own reading of the front view."""
    wanted = {"kind": "alien", "skin": "blue", "glasses": "round glasses", "style": "clay", "smile": "yes"}
    shares = []
    for count in (1, 4, 24):
        codes = seeing(attributes=wanted, candidates=count).codes
        views = [seeing._seen(codes[None], yaw) for yaw in (0.0, -30.0, 30.0)]
        shares.append(float(share_shown(shown(seeing.estimator, views), wanted)))
    assert shares == sorted(shares) and shares[0] < shares[2]


def test_of_equally_likely_candidates_the_one_with_the_picture_s_features_is_kept(seeing, monkeypatch):
    """CLIP is made blind here: to it all candidates are equally like the picture."""
    monkeypatch.setattr(seeing.clip, "images", lambda pictures: torch.ones(len(pictures), 16))
    codes = torch.stack([seeing(seed=seed, truncation=1.0).codes for seed in range(4)])
    for code in codes:
        picture = Avatar(code, seeing.generator).render(size=64)
        torch.testing.assert_close(seeing.choose(Request(image=picture), codes).codes, code)


def test_likeness_to_a_picture_is_told_apart_from_likeness_to_the_prompt_beside_it(pipeline):
    """Else a picture that is met would be called far away, because a text never is as near."""
    picture, code = pipeline(seed=3).render(size=64), pipeline(seed=3).codes[None]
    alone, both = (pipeline.choose(Request(image=picture, prompt=text), code) for text in (None, PROMPT))
    assert both.provenance["request"]["likeness"] == alone.provenance["request"]["likeness"]


def test_folders_that_are_no_pipeline(folder, tmp_path):
    with pytest.raises(StyleAvatarError, match="holds no avatar pipeline"):
        AvatarPipeline.from_pretrained(tmp_path)
    (tmp_path / "generator").mkdir()
    with pytest.raises(StyleAvatarError):
        AvatarPipeline.from_pretrained(tmp_path)
    with pytest.raises(StyleAvatarError, match="seeds only"):
        AvatarPipeline.from_pretrained(folder, seeds_only=True)(prompt=PROMPT)


def test_a_prior_of_another_generator_is_refused(folder, tmp_path):
    for part in ("clip", "stylespace"):
        (tmp_path / part).symlink_to(folder / part)
    tiny.write_generator(tmp_path / "generator", seed=9)
    with pytest.raises(StyleAvatarError, match="belongs to another generator"):
        AvatarPipeline.from_pretrained(tmp_path)


def test_generate_writes_every_file_with_its_provenance(folder, tmp_path):
    Image.new("RGB", (20, 20), "green").save(tmp_path / "green.png")
    asked = {"prompts": [PROMPT, PROMPT], "images": [str(tmp_path / "green.png")], "seeds": [4]}
    small = {"size": 32, "mesh": 16, "frames": 4, "candidates": 2}
    table = tmp_path / "table.csv"
    table.write_text("name,prompt,image,number\nboth,a blue alien,green.png,2\n")
    result = generate(**asked, **small, table=str(table), out=str(tmp_path / "out"), model=str(folder))
    names = [Path(avatar["folder"]).name for avatar in result["avatars"]]
    slug = "a-blue-alien-with-round-glasses-clay-style"
    assert names == [slug, f"{slug}.2", "green", "seed-0004", "both-00", "both-01"]
    for name in names:
        made = tmp_path / "out" / name
        assert {file.name for file in made.iterdir()} == {
            "front.png", "left.png", "right.png", "back.png", "turntable.mp4", "avatar.glb", "avatar.safetensors",
            "provenance.json",
        }  # fmt: skip
        about = json.loads((made / "provenance.json").read_text())
        assert json.loads(Image.open(made / "front.png").text["provenance"]) == about
        assert about["licences"] and len(about["config_hash"]) == 12
    assert Image.open(result["sheet"]).size == (6 * 32, 32)
    for ending in (".glb", ".obj", ".ply", ".stl"):
        path = tmp_path / f"mesh{ending}"
        assert export(str(made / "avatar.safetensors"), str(path), 16, str(folder))["faces"] > 0 and path.stat().st_size
    with pytest.raises(StyleAvatarError, match="no format"):
        export(str(made / "avatar.safetensors"), str(tmp_path / "mesh.xyz"), 16, str(folder))


def test_generate_leaves_nothing_behind_when_it_fails(folder, tmp_path):
    with pytest.raises(StyleAvatarError):
        generate([PROMPT], ["absent.png"], out=str(tmp_path / "out"), model=str(folder), size=32, mesh=0, frames=0)
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(StyleAvatarError):
        generate(seeds=[1], out=str(tmp_path / "file"), model=str(folder), size=32, mesh=0, frames=0)
