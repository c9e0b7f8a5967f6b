"""Whole bodies of an optional package: figures like any other, and never of data that may not be sold."""

import socket

import pytest
import torch

from styleavatar3d.camera.cameras import Camera
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures import bodies
from styleavatar3d.figures.files import FileFigure
from styleavatar3d.figures.guidance import guide

anny = pytest.importorskip("anny")


@pytest.fixture(scope="module")
def asked() -> list[dict[str, object]]:
    """What the package is asked for, each time a model is built."""
    return []


@pytest.fixture(scope="module")
def figure(asked: list[dict[str, object]]) -> FileFigure:
    """A body that was made without a network and without the package's data that may not be sold."""
    build = anny.Anny

    def note(**options: object) -> object:
        asked.append(options)
        return build(**options)

    def refuse(*_: object) -> None:
        raise AssertionError("nothing may be fetched")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(anny, "Anny", note)
        patch.setattr("anny.paths.download_noncommercial_data", refuse)
        patch.setattr(socket.socket, "connect", refuse)
        bodies._anny.cache_clear()
        return bodies.body(gender=0.8, age=0.6)


def test_only_the_free_mesh_and_rig_are_asked_for(figure: FileFigure, asked: list[dict[str, object]]):
    assert [(one["rig"], one["topology"]) for one in asked] == [("makehuman", "makehuman")]
    assert figure.licence == "CC0-1.0" and figure.source == "anny age=0.6 gender=0.8"


def test_key_points_lie_on_the_body(figure: FileFigure):
    points = figure.key_points
    assert figure.found_by == "skeleton"
    for name in ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle"):
        left, right = points[f"left_{name}"], points[f"right_{name}"]
        assert left[0] > 0.03, "the figure's left is +x"
        torch.testing.assert_close(left * torch.tensor([-1.0, 1, 1]), right, atol=0.005, rtol=0)
    for name in ("nose", "left_eye", "left_ear"):
        assert (figure.vertices - points[name]).norm(dim=1).min() < 0.02, name
    assert points["nose"][2] > points["left_eye"][2] > points["left_ear"][2] + 0.1, "the face looks to +z"
    down = ("left_ear", "neck", "left_shoulder", "left_hip", "left_knee", "left_ankle")
    heights = [float(points[name][1]) for name in down]
    assert heights == sorted(heights, reverse=True) and abs(heights[0]) < 0.01, "the origin lies between the ears"


def test_it_is_guided_like_any_other_figure(figure: FileFigure):
    front, back = (guide(figure, Camera.orbit(yaw, 0.0), 64, ("depth", "openpose")) for yaw in (0.0, 180.0))
    assert front.visible[0] and not back.visible[0], "the nose is seen from the front only"
    assert 0.2 < float((front.mask > 128).float().mean()) < 0.9
    assert (front.pictures["openpose"] == 255).all(-1).any() and not (back.pictures["openpose"] == 255).all(-1).any()


def test_phenotypes_make_other_bodies_and_the_same_ones_the_same():
    young, again = (bodies.body(age=0.1) for _ in range(2))
    assert torch.equal(young.vertices, again.vertices) and young.sha256 == again.sha256
    assert (young.vertices - bodies.body().vertices).abs().max() > 0.1


@pytest.mark.parametrize("wrong", [{"wings": 1.0}, {"age": 1.5}, {"gender": float("nan")}])
def test_bodies_that_there_are_not(wrong: dict[str, float]):
    with pytest.raises(StyleAvatarError, match="no such body"):
        bodies.body(**wrong)
