"""Depth of renderings, as depth guidance shows it."""

import pytest
import torch
from shards.samples import make_dataset

from styleavatar3d.camera.cameras import Camera, orbit_labels, yaw_pitch
from styleavatar3d.camera.rays import box_intersection, rays
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.dress import build_figure
from styleavatar3d.figures.guidance import guide
from styleavatar3d.figures.looks import Look
from styleavatar3d.gan.depth import of_rendering, stretch
from styleavatar3d.gan.views import DataConfig, Reals, Sampler, Views, load_views

BOX = 1.0


def test_a_rendered_head_has_the_depth_of_its_guidance():
    camera = Camera.orbit(40.0, 10.0)
    view = guide(build_figure(Look()), camera, 64)
    labels, mask = camera.label()[None], (view.mask[None, None] > 127).float()
    far = box_intersection(*rays(labels, 64), BOX)[1].view(1, 1, 64, 64)
    distance = torch.where(mask > 0, view.depth.nan_to_num(posinf=0.0), far)
    found = of_rendering(distance, mask, labels, BOX)
    wanted = stretch(view.pictures["depth"][None, None, :, :, 0].float() / 255, mask)
    assert (found - wanted).abs().max() < 0.02 and found.amax() == 1 and found[mask == 0].abs().max() == 0


def test_half_transparent_surfaces_lie_where_they_are():
    labels = orbit_labels(torch.zeros(1), torch.zeros(1))
    far = box_intersection(*rays(labels, 8), BOX)[1].view(1, 1, 8, 8)
    surface = 2.5 + torch.rand(1, 1, 8, 8) * 0.3
    half, whole = (of_rendering(m * surface + (1 - m) * far, torch.full_like(far, m), labels, BOX) for m in (0.6, 1.0))
    assert torch.allclose(half, whole, atol=1e-4)


def test_what_is_stretched_stays_and_an_empty_picture_is_empty():
    mask = (torch.rand(2, 1, 8, 8) > 0.4).float()
    once = stretch(torch.rand(2, 1, 8, 8) * 0.1 + 0.3, mask)
    assert torch.allclose(stretch(once, mask), once) and once.max() == 1
    values = torch.rand(1, 1, 8, 8, requires_grad=True)
    empty = stretch(values, torch.zeros(1, 1, 8, 8))
    empty.sum().backward()
    assert not empty.any() and values.grad is not None and values.grad.isfinite().all()


def test_depth_is_cut_out_and_flipped_with_its_picture():
    masks = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    masks[..., 4:12, 2:10] = 255
    slope = torch.arange(16, dtype=torch.uint8).expand(1, 1, 16, 16) * 10
    views = Views(masks.expand(-1, 3, -1, -1), masks, orbit_labels(torch.full((1,), 40.0), torch.zeros(1)), slope)
    reals = Sampler(views, DataConfig(shards=""), 0, torch.device("cpu")).reals(0, 16, 8)
    assert reals.depths.shape == reals.masks.shape and not reals.depths[reals.masks <= 0.5].any()
    rises = reals.depths.amax(2)[:, 0].argmax(1) > 3
    flipped = yaw_pitch(reals.labels)[0] < 0
    assert 2 < flipped.sum() < 14 and not rises[flipped].any() and rises[~flipped].all()
    assert sampler_without_depth(views).depths.shape[1] == 0


def sampler_without_depth(views: Views) -> Reals:
    return Sampler(views._replace(depths=None), DataConfig(shards=""), 0, torch.device("cpu")).reals(0, 4, 16)


def test_data_without_depth_guidance_is_refused_when_depth_is_asked_for(tmp_path):
    make_dataset(str(tmp_path))
    with pytest.raises(StyleAvatarError, match="data set has none"):
        load_views(str(tmp_path), 16, depth=True)
    assert load_views(str(tmp_path), 16).depths is None
