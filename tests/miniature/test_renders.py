from dataclasses import replace

import pytest
import torch

from styleavatar3d.camera.cameras import Camera, yaw_pitch
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.dress import build_figure
from styleavatar3d.figures.heads import HAIR, SHIRT, SKIN
from styleavatar3d.figures.looks import ATTRIBUTES, BACKGROUNDS, STYLES, Look
from styleavatar3d.miniature import palette
from styleavatar3d.miniature.backgrounds import paint as backdrop_of
from styleavatar3d.miniature.renders import (
    NO_PART,
    _every_word,
    draw_background,
    draw_cameras,
    fingerprint,
    render_dataset,
    render_view,
    render_views,
)

LOOK = Look(hair="short", hair_color="red", shirt_color="green", skin="pale", seed=5)


@pytest.fixture(scope="module")
def figure():
    return build_figure(LOOK)


def mean_color(view, part):
    return view.image[view.parts == part].float().mean(0)


@pytest.mark.parametrize("style", STYLES)
def test_a_view_is_what_it_says(figure, style):
    view = render_view(figure, style, Camera.orbit(20.0, 5.0))
    assert view.image.shape == (64, 64, 3) and view.image.dtype == torch.uint8
    assert (view.image[view.mask == 0] == 127).all()
    assert 0.2 < (view.mask > 0).float().mean() < 0.8
    assert torch.equal(view.parts != NO_PART, view.mask > 0)
    assert torch.equal(view.depth.isfinite(), view.mask > 0)
    assert torch.allclose(view.normals[view.mask > 0].norm(dim=-1), torch.tensor(1.0), atol=1e-3)
    assert {SKIN, HAIR, SHIRT} <= set(view.parts.unique().tolist())


def test_colours_follow_the_words(figure):
    view = render_view(figure, "cartoon", Camera.orbit(0.0))
    red, green, blue = mean_color(view, SHIRT)
    assert green > 1.5 * red and green > 1.5 * blue
    red, green, blue = mean_color(view, HAIR)
    assert red > 1.5 * green and red > 1.5 * blue


def test_clay_tints_and_marble_hides():
    alien = build_figure(replace(LOOK, kind="alien", skin="blue", eyes="yellow"))
    clay = mean_color(render_view(alien, "clay", Camera.orbit(0.0)), SKIN)
    marble = mean_color(render_view(alien, "marble", Camera.orbit(0.0)), SKIN)
    assert clay[2] > clay[0] + 40
    assert (marble.amax() - marble.amin()) < 20


@pytest.mark.parametrize("style", STYLES)
def test_light_stands_still_and_is_mirrored(figure, style):
    """Opposite yaws are mirror images: no lamp travels with the camera or stands on one side only."""
    one = render_view(figure, style, Camera.orbit(50.0, 5.0))
    other = render_view(figure, style, Camera.orbit(-50.0, 5.0))
    difference = (one.image.float() - other.image.flip(1).float()).abs()
    assert difference.mean() < 2.5


def test_the_same_call_gives_the_same_bytes_alone_or_in_a_batch(figure):
    cameras = [Camera.orbit(yaw, 3.0) for yaw in (-150.0, 0.0, 70.0)]
    together = render_views(figure, "cel", torch.stack([camera.label() for camera in cameras]))
    for view, camera in zip(together, cameras, strict=True):
        assert torch.equal(view.image, render_view(figure, "cel", camera).image)


def test_a_background_stands_behind_the_figure_and_changes_nothing_else(figure):
    plain = render_view(figure, "clay", Camera.orbit(30.0))
    before = render_view(figure, "clay", Camera.orbit(30.0), background="sunset")
    assert torch.equal(plain.image[plain.mask == 255], before.image[plain.mask == 255])
    backdrop = (backdrop_of("sunset", 64) * 255).round().to(torch.uint8)
    assert torch.equal(before.image[plain.mask == 0], backdrop[plain.mask == 0])
    assert torch.equal(plain.mask, before.mask) and torch.equal(plain.depth, before.depth)


def test_only_ink_belongs_to_the_picture(figure):
    assert render_view(figure, "cel", Camera.orbit(0.0)).view_dependent
    assert not any(render_view(figure, style, Camera.orbit(0.0)).view_dependent for style in ("clay", "pencil"))


def test_sheets_seen_from_behind_turn_their_normals_to_the_viewer(figure):
    camera = Camera.orbit(170.0)
    view = render_view(figure, "clay", camera)
    towards = (view.normals @ torch.nn.functional.normalize(camera.position, dim=0))[view.mask == 255]
    assert (towards > -0.2).float().mean() > 0.99


def test_unknown_style_is_an_error(figure):
    with pytest.raises(StyleAvatarError, match="unknown style"):
        render_view(figure, "oil", Camera.orbit(0.0))


def test_cameras_look_from_everywhere_and_more_often_at_the_face():
    yaw, pitch = yaw_pitch(draw_cameras(0, 0, 600))
    assert pitch.min() >= -15.01 and pitch.max() <= 25.01
    assert 0.45 < (yaw.abs() < 50).float().mean() < 0.62
    assert (yaw.abs() > 150).float().mean() > 0.05
    assert torch.equal(draw_cameras(0, 10, 5), draw_cameras(0, 0, 20)[10:15])


def test_a_dataset_is_the_same_however_it_is_rendered(tmp_path, monkeypatch):
    monkeypatch.setattr("styleavatar3d.miniature.renders._CHUNK", 3)
    arguments = {"seed": 4, "size": 32, "supersample": 1, "cache": tmp_path}
    reports = []
    first = render_dataset(10, progress=lambda *report: reports.append(report), **arguments)
    assert first["image"].shape == (10, 3, 32, 32) and first["mask"].shape == (10, 1, 32, 32)
    assert first["depth_rgb"].shape == (10, 1, 32, 32) and first["keypoints_rgb"].shape == (10, 3, 32, 32)
    assert first["labels"].shape == (10, 25) and len(first["looks"]) == len(first["styles"]) == 10
    assert first["looks"][0] == first["looks"][2] != first["looks"][3]
    assert reports[-1] == (10, 10, 0.0)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    lost = sorted(files)[0]
    lost.unlink()
    again = render_dataset(10, **arguments)
    assert {path for path in tmp_path.rglob("*.safetensors")} == set(files)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in files.items() if path != lost)
    longer = render_dataset(13, **arguments)
    for name in ("image", "mask", "depth_rgb", "keypoints_rgb", "labels"):
        assert torch.equal(first[name], again[name]) and torch.equal(first[name], longer[name][:10])


def test_backgrounds_are_drawn_and_landmarks_told_when_asked(monkeypatch):
    monkeypatch.setattr("styleavatar3d.miniature.renders._CHUNK", 2)
    arguments = {"count": 6, "size": 32, "supersample": 1}
    plain, some = render_dataset(**arguments), render_dataset(**arguments, backgrounds=0.5, landmarks=True)
    assert plain["backgrounds"] == ["grey"] * 6 and "landmarks" not in plain
    drawn = torch.tensor([name != "grey" for name in some["backgrounds"]])
    assert 0 < drawn.sum() < 6
    empty = (plain["mask"] == 0).expand(-1, 3, -1, -1)
    for view in range(6):
        same = torch.equal(plain["image"][view][empty[view]], some["image"][view][empty[view]])
        assert same != drawn[view]
    count = some["landmarks"].shape[1]
    assert some["landmarks"].shape == (6, count, 2) and some["landmarks_visible"].shape == (6, count)
    inside = some["landmarks"][some["landmarks_visible"]].round().long().clamp(0, 31)
    assert some["landmarks_visible"].any() and (inside >= 0).all()


def test_the_share_of_backgrounds_is_kept():
    drawn = [draw_background(3, index, 0.25) for index in range(400)]
    assert 0.18 < sum(name != "grey" for name in drawn) / 400 < 0.32 and set(drawn) == set(BACKGROUNDS)


def test_worker_processes_render_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("styleavatar3d.miniature.renders._CHUNK", 2)
    arguments = {"count": 4, "size": 16, "supersample": 1, "views_per_figure": 1}
    alone = render_dataset(**arguments)
    shared = render_dataset(**arguments, workers=2, cache=tmp_path)
    assert torch.equal(alone["image"], shared["image"]) and torch.equal(alone["labels"], shared["labels"])


def test_a_cache_is_named_by_what_is_drawn(monkeypatch):
    before = fingerprint()
    fingerprint.cache_clear()
    assert fingerprint() == before
    monkeypatch.setitem(palette.HAIR_COLORS, "blonde", (0.5, 0.5, 0.5))
    fingerprint.cache_clear()
    assert fingerprint() != before
    fingerprint.cache_clear()


def test_the_fingerprint_wears_every_word():
    looks = _every_word()
    for name, words in ATTRIBUTES.items():
        worn = {getattr(look, name) for look in looks}
        assert worn == set(words) or (name == "smile" and worn == {True, False}), name


def test_nothing_to_render_is_an_error():
    with pytest.raises(StyleAvatarError, match="nothing to render"):
        render_dataset(0)
    with pytest.raises(StyleAvatarError, match="nothing to render"):
        render_dataset(3, backgrounds=1.5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_an_error():
    with pytest.raises(StyleAvatarError, match="no GPU"):
        render_dataset(3, device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("style", STYLES)
def test_cuda_draws_what_the_cpu_draws(style):
    labels = draw_cameras(0, 0, 3)
    here = render_views(build_figure(LOOK), style, labels)
    there = render_views(build_figure(LOOK, "cuda"), style, labels)
    for ours, theirs in zip(here, there, strict=True):
        assert torch.equal(ours.mask, theirs.mask.cpu()) and torch.equal(ours.parts, theirs.parts.cpu())
        assert (ours.image.int() - theirs.image.cpu().int()).abs().float().mean() < 0.05
        assert torch.equal(ours.guidance.visible, theirs.guidance.visible.cpu())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_gives_the_same_bytes_again(monkeypatch):
    monkeypatch.setattr("styleavatar3d.miniature.renders._CHUNK", 2)
    first, again = (render_dataset(6, landmarks=True, device="cuda") for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first if isinstance(first[name], torch.Tensor))
