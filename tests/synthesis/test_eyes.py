"""Eyes other than the miniature's estimator."""

import math
from pathlib import Path

import pytest
import torch
from synthesis.drawn import rendered_sample

from styleavatar3d.assets import assets
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.looks import draw_look
from styleavatar3d.synthesis.eyes import MediaPipeEye, open_eye, turned, view_error, yaw_of_face


def test_turns_are_measured_the_short_way_round():
    assert turned(torch.tensor([170.0, -10.0, 0.0]), torch.tensor([-170.0, 10.0, 180.0])).tolist() == [20, 20, 180]


@pytest.mark.parametrize("yaw", [0.0, 40.0, -75.0])
def test_a_face_that_points_to_the_left_of_the_picture_has_positive_yaw(yaw: float):
    turn = math.radians(-yaw)  # about y, which is up: the face's forward axis z goes to -x
    matrix = torch.eye(4)
    matrix[0, 0] = matrix[2, 2] = math.cos(turn)
    matrix[0, 2], matrix[2, 0] = math.sin(turn), -math.sin(turn)
    assert yaw_of_face(matrix) == pytest.approx(yaw, abs=1e-4)


@pytest.mark.skipif(not (assets() / "data/miniature/clip").is_dir(), reason="needs the shipped weights")
def test_clip_tells_views_by_their_words():
    eye = open_eye("clip", assets() / "data/miniature/clip", "miniature")
    looks, yaws = [draw_look(9, number) for number in range(12)], (0.0, 90.0, -180.0, -90.0)
    samples = [rendered_sample(yaw, look=look) for look in looks for yaw in yaws]
    opposite = [rendered_sample(yaw, turned_round(yaw), look=look) for look in looks for yaw in yaws]
    images = torch.stack([sample.image for sample in samples])
    right = eye.look(images, [sample.record for sample in samples])
    wrong = eye.look(images, [sample.record for sample in opposite])
    assert right["view"].mean() < 45 < 120 < wrong["view"].mean()
    fronts, backs = right["face"][0::4], right["face"][2::4]
    assert fronts.mean() > 0.5 > 2 * backs.mean()
    assert right["text"].mean() > wrong["text"].mean()


def turned_round(yaw: float) -> float:
    return yaw - 180 if yaw >= 0 else yaw + 180


def test_media_pipe_says_what_it_lacks(tmp_path: Path):
    (tmp_path / "face.task").write_bytes(b"no model")
    with pytest.raises(StyleAvatarError, match=r"pip install 'styleavatar3d\[gates\]'|cannot read its model"):
        MediaPipeEye.from_file(tmp_path / "face.task")


def test_a_face_that_is_not_found_is_missed_in_front_only():
    assert view_error(170.0, -170.0) == pytest.approx(20)
    assert view_error(None, 30.0) == 180 and math.isnan(view_error(None, -120.0))
