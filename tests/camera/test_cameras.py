"""Cameras against the conventions a user reads in the docs."""

import pytest
import torch

from styleavatar3d.camera.cameras import Camera, check_labels, mirror_labels, orbit_labels, yaw_pitch
from styleavatar3d.camera.rays import box_intersection, rays
from styleavatar3d.errors import StyleAvatarError


def test_the_front_camera_stands_on_z_and_looks_back():
    camera = Camera.orbit(yaw=0)
    torch.testing.assert_close(camera.world_from_camera[:3, :3], torch.diag(torch.tensor([1.0, -1.0, -1.0])))
    torch.testing.assert_close(camera.position, torch.tensor([0.0, 0.0, 2.7]))


def test_yaw_90_stands_on_the_figures_left():
    torch.testing.assert_close(Camera.orbit(yaw=90).position, torch.tensor([2.7, 0.0, 0.0]))


def test_positive_pitch_is_above():
    assert Camera.orbit(yaw=0, pitch=30).position[1] == pytest.approx(1.35)


def test_the_angles_asked_for_are_the_angles_got():
    yaw = torch.rand(500, generator=torch.Generator().manual_seed(0)) * 360 - 180
    pitch = torch.rand(500, generator=torch.Generator().manual_seed(1)) * 170 - 85
    got_yaw, got_pitch = yaw_pitch(orbit_labels(yaw, pitch))
    torch.testing.assert_close(got_yaw, yaw, atol=1e-3, rtol=0)
    torch.testing.assert_close(got_pitch, pitch, atol=1e-3, rtol=0)


def test_yaw_180_is_reported_as_minus_180():
    assert Camera.orbit(yaw=180).yaw == pytest.approx(-180)


def test_a_label_round_trips():
    camera = Camera.orbit(37, -12)
    again = Camera.from_label(camera.label())
    torch.testing.assert_close(again.world_from_camera, camera.world_from_camera)
    torch.testing.assert_close(again.intrinsics, camera.intrinsics)


def test_a_mirrored_label_is_the_label_of_the_mirrored_yaw():
    yaw, pitch = torch.tensor([-170.0, -35.0, 0.0, 20.0, 91.0]), torch.tensor([5.0, -10.0, 0.0, 25.0, 3.0])
    torch.testing.assert_close(mirror_labels(orbit_labels(yaw, pitch)), orbit_labels(-yaw, pitch), atol=1e-6, rtol=0)


def test_mirroring_twice_changes_nothing():
    labels = orbit_labels(torch.tensor([33.0]), torch.tensor([7.0]))
    assert torch.equal(mirror_labels(mirror_labels(labels)), labels)


@pytest.mark.parametrize("spoil", ["left-handed", "camera_from_world_scaled", "focal in pixels", "nan"])
def test_a_label_that_is_no_camera_is_refused(spoil):
    labels = orbit_labels(torch.tensor([10.0]), torch.tensor([0.0]))
    match spoil:
        case "left-handed":
            labels[:, [0, 4, 8]] *= -1
        case "camera_from_world_scaled":
            labels[:, :11] *= 2
        case "focal in pixels":
            labels[:, [16, 20]] *= 512
        case "nan":
            labels[:, 3] = float("nan")
    with pytest.raises(StyleAvatarError, match="camera label 0 is not a camera"):
        check_labels(labels)


def test_the_central_ray_passes_the_pivot_and_rays_are_unit():
    labels = orbit_labels(torch.tensor([0.0, 75.0]), torch.tensor([0.0, -20.0]))
    origins, directions = rays(labels, 65)
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(2, 65 * 65))
    middle = 32 * 65 + 32
    closest = origins[:, middle] + 2.7 * directions[:, middle]
    torch.testing.assert_close(closest, torch.zeros(2, 3), atol=1e-6, rtol=0)


def test_rows_go_down_and_columns_go_to_the_cameras_right():
    origins, directions = rays(Camera.orbit(0).label()[None], 2)
    on_plane = origins[0] + directions[0] * (2.7 / -directions[0, :, 2:])
    assert (on_plane[:2, 1] > 0).all() and (on_plane[2:, 1] < 0).all()
    assert (on_plane[::2, 0] < 0).all() and (on_plane[1::2, 0] > 0).all()
    half = 0.5 * 2.7 / 4.2647 / 2
    torch.testing.assert_close(on_plane[:, 0].abs(), torch.full((4,), half), atol=1e-5, rtol=0)


def test_box_intersection_against_closed_form():
    origins = torch.tensor([[[0.0, 0.0, 2.7], [0.0, 0.9, 2.7]]])
    directions = torch.tensor([[[0.0, 0.0, -1.0], [0.0, 0.0, -1.0]]])
    near, far = box_intersection(origins, directions, 1.0)
    torch.testing.assert_close(near[0, 0], torch.tensor(2.2))
    torch.testing.assert_close(far[0, 0], torch.tensor(3.2))
    assert near[0, 1] == far[0, 1], "a ray that misses has an interval of no length"


def test_an_impossible_orbit_is_refused():
    with pytest.raises(StyleAvatarError, match="no such orbit camera"):
        Camera.orbit(yaw=0, pitch=90)
