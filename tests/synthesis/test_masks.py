"""Masks: an edge is found where the picture has it, and kept where nothing tells."""

import pytest
import torch
from synthesis.drawn import render
from torch.nn import functional as F

from styleavatar3d.synthesis.masks import figure_masks, refine_masks
from styleavatar3d.synthesis.measures import framing, novelty, sharpness, thumbnails


@pytest.fixture(scope="module")
def world() -> tuple[torch.Tensor, torch.Tensor]:
    views = [render(yaw) for yaw in (0.0, 60.0, -170.0)]
    images = torch.stack([view.image.permute(2, 0, 1) for view in views])
    return images, torch.stack([view.mask[None] for view in views])


def iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    a, b = a > 127, b > 127
    return (a & b).sum((1, 2, 3)) / (a | b).sum((1, 2, 3))


def test_a_silhouette_that_is_too_large_too_small_or_beside_is_mended(world):
    images, masks = world
    grown = F.max_pool2d(masks.float(), 5, 1, 2).to(torch.uint8)
    shrunk = 255 - F.max_pool2d(255 - masks.float(), 5, 1, 2).to(torch.uint8)
    for wrong in (grown, shrunk, masks.roll(2, 3)):
        before, after = iou(wrong, masks), iou(refine_masks(images, wrong), masks)
        assert ((1 - after) < 0.6 * (1 - before)).all(), (before, after)
    assert (iou(refine_masks(images, masks), masks) > 0.97).all()


def test_a_soft_edge_has_the_share_that_is_covered():
    share = torch.linspace(-6, 7, 64).clamp(0, 1).expand(64, 64)
    image = (255 * (share * torch.tensor([0.9, 0.2, 0.1]).view(3, 1, 1) + (1 - share) * 0.5)).round().to(torch.uint8)
    hard = (255 * (torch.linspace(-6, 7, 64) > 0.5)).expand(1, 64, 64).to(torch.uint8)
    found = refine_masks(image[None], hard[None])[0, 0, 32].float() / 255
    assert (found - share[0]).abs().max() < 0.1


def test_where_figure_and_background_are_alike_the_silhouette_stays(world):
    _, masks = world
    assert torch.equal(refine_masks(torch.full_like(masks, 127).expand(-1, 3, -1, -1), masks), masks)


def test_framing_falls_when_the_figure_is_not_where_it_was_to_be(world):
    images, masks = world
    coverage, overlap = framing(images, masks)
    assert (coverage > 0.9).all() and (overlap > 0.88).all()
    assert (framing(images.roll(12, 3), masks)[1] < 0.8).all()
    empty = torch.full_like(images, 127)
    assert framing(empty, masks)[0].max() == 0
    painted, asked = figure_masks(F.interpolate(images, scale_factor=4), F.interpolate(masks, scale_factor=4))
    assert painted.shape == asked.shape == (3, 128, 128)


def test_blur_is_seen_whatever_the_contrast(world):
    images, masks = world
    pale = (images.float() * 0.4 + 70).round().to(torch.uint8)
    soft = F.avg_pool2d(F.pad(images.float(), (2, 2, 2, 2), mode="replicate"), 5, 1).round().to(torch.uint8)
    assert torch.allclose(sharpness(pale, masks), sharpness(images, masks), rtol=0.1)
    assert (sharpness(soft, masks) < 0.25 * sharpness(images, masks)).all()


def test_new_pictures_are_new_and_copies_are_not(world):
    images, _ = world
    numbers = thumbnails(images)
    assert novelty(numbers[0], numbers[1:]) > 0.02 and novelty(numbers[0], numbers[:0]) == 1.0
    copy = F.interpolate((images[:1].float() * 0.9 + 9), scale_factor=2, mode="bilinear").round().to(torch.uint8)
    assert novelty(thumbnails(copy)[0], numbers) < 0.002
