"""Cameras of the ancestors' samplers against stored numbers."""

import math

import goldens
import torch

from styleavatar3d.camera.ancestors import (
    camera_labels,
    focal_intrinsics,
    helper_focal,
    look_at,
    sampler_positions,
)
from styleavatar3d.camera.cameras import mirror_labels, orbit_labels


def test_samplers_look_where_they_should():
    golden = goldens.load("camera")
    horizontal, vertical, *pivot, radius = golden["params"].unbind(1)
    positions = sampler_positions(horizontal, vertical, radius)
    matrices = look_at(positions, torch.stack(pivot, 1))
    golden.check("lookat", matrices)
    at_origin = look_at(positions, torch.zeros(1, 3))
    golden.check("origin_gaussian", at_origin)
    golden.check("origin_uniform", at_origin)
    labels = camera_labels(matrices, golden["intrinsics_ffhq"][None])
    golden.check("labels", labels)
    golden.check("labels_mirrored", mirror_labels(labels))
    golden.check("lookat_mirrored", mirror_labels(labels)[:, :16].unflatten(1, (4, 4)))


def test_the_field_of_view_helper():
    golden = goldens.load("camera")
    golden.check("fov_intrinsics", focal_intrinsics(helper_focal(golden["fov_degrees"])))
    golden.check("intrinsics_ffhq", focal_intrinsics(torch.tensor([4.2647]))[0])


def test_honest_angles_and_theirs_meet_on_the_horizon():
    yaw = torch.tensor([-120.0, -30.0, 0.0, 75.0])
    level = torch.full((4,), math.pi / 2)
    theirs = look_at(sampler_positions(torch.deg2rad(yaw) + math.pi / 2, level, 2.7), torch.zeros(1, 3))
    torch.testing.assert_close(theirs.flatten(1), orbit_labels(yaw, torch.zeros(4))[:, :16], atol=1e-6, rtol=0)
    raised = sampler_positions(level[:1], torch.deg2rad(torch.tensor([60.0])), 1.0)
    assert abs(math.degrees(math.acos(raised[0, 1])) - 70.53) < 0.01
