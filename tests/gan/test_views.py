"""What is drawn depends on the image's index in the run alone."""

import pytest
import torch
from shards.samples import make_dataset

from styleavatar3d.camera.cameras import orbit_labels, yaw_pitch
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.gan.chance import pieces
from styleavatar3d.gan.views import DataConfig, Sampler, Views, balanced_pool, load_views


def random_views(count: int = 40, size: int = 16) -> Views:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    yaws = torch.rand(count, generator=generator) * 360 - 180
    return Views(images, images[:, :1] // 128 * 255, orbit_labels(yaws, torch.zeros(count)))


def sampler(**changes) -> Sampler:
    return Sampler(random_views(), DataConfig(shards="", **changes), 3, torch.device("cpu"))


def test_batches_are_parts_of_one_stream():
    whole, parts = sampler().reals(8, 8, 16), [sampler().reals(8, 4, 16), sampler().reals(12, 4, 16)]
    for all_of_it, *those in zip(*(drawn[:-1] for drawn in (whole, *parts)), strict=True):
        assert torch.equal(all_of_it, torch.cat(those))
    numbers = whole.chance.uniform("anything", 3)
    assert torch.equal(numbers, torch.cat([part.chance.uniform("anything", 3) for part in parts]))
    whole = sampler().fakes(0, 8, 5, (3, 2))
    parts = [sampler().fakes(first, 4, 5, (3, 2)) for first in (0, 4)]
    assert torch.equal(whole.latents, torch.cat([p.latents for p in parts]))
    assert torch.equal(whole.labels, torch.cat([p.labels for p in parts]))
    assert torch.equal(whole.jitter.fine, torch.cat([p.jitter.fine for p in parts]))
    assert whole.jitter.coarse.shape == (8, 1, 3) and not torch.equal(whole.latents[0], whole.latents[1])


def test_an_epoch_shows_each_view_once():
    reals = sampler(front_share=0.0, mirror=False).reals(40, 40, 16)
    wanted = random_views()
    order = torch.cdist(wanted.labels, reals.labels).argmin(1)
    assert sorted(order.tolist()) == list(range(40))


def test_pictures_are_cut_out_on_grey_and_flipped_with_their_cameras():
    views = random_views(1)
    plain = Sampler(views, DataConfig(shards="", mirror=False), 3, torch.device("cpu")).reals(0, 1, 16)
    assert (plain.images[0, :, plain.masks[0, 0] == 0] == 0).all()
    mirrored = Sampler(views, DataConfig(shards=""), 3, torch.device("cpu")).reals(0, 32, 16)
    flipped = torch.tensor([not torch.equal(image, plain.images[0]) for image in mirrored.images])
    assert 4 < flipped.sum() < 28
    yaw = yaw_pitch(views.labels)[0]
    yaws = yaw_pitch(mirrored.labels)[0]
    assert torch.allclose(yaws[flipped], -yaw, atol=1e-3) and torch.allclose(yaws[~flipped], yaw, atol=1e-3)
    assert torch.equal(mirrored.images[flipped][0], plain.images[0].flip(-1))


def test_smaller_pictures_are_means():
    large, small = sampler().reals(0, 2, 16), sampler().reals(0, 2, 4)
    assert torch.allclose(small.images[0, 0, 0, 0], large.images[0, 0, :4, :4].mean(), atol=1e-6)


def test_pieces_of_a_batch_draw_what_the_batch_draws():
    whole = sampler().fakes(8, 8, 5, (3, 2))
    parts = list(pieces(whole, 3))
    assert [len(part.latents) for part in parts] == [3, 3, 2]
    assert torch.equal(whole.jitter.fine, torch.cat([part.jitter.fine for part in parts]))
    for draw in (lambda chance: chance.uniform("a", 2), lambda chance: chance.normal("b", 2, 2)):
        assert torch.equal(draw(whole.chance), torch.cat([draw(part.chance) for part in parts]))


def test_views_from_behind_are_repeated():
    labels = orbit_labels(torch.tensor([0.0, 89.0, 91.0, -170.0]), torch.zeros(4))
    assert sorted(balanced_pool(labels, 0.0, 3).tolist()) == [0, 1, 2, 2, 2, 3, 3, 3]


@pytest.mark.parametrize("share", [0.0, 0.5, 0.8])
def test_near_front_views_reach_their_share(share):
    labels = orbit_labels(torch.arange(-180.0, 180.0, 5), torch.zeros(72))
    front = (yaw_pitch(labels[balanced_pool(labels, share)])[0].abs() < 50).float().mean().item()
    assert front == pytest.approx(max(share, 19 / 72), abs=0.01)


def test_shards_are_read_and_checked(tmp_path):
    make_dataset(str(tmp_path))
    views = load_views(str(tmp_path), 16)
    assert views.images.shape == (18, 3, 16, 16) and views.masks.shape == (18, 1, 16, 16)
    with pytest.raises(StyleAvatarError, match="another size"):
        load_views(str(tmp_path), 32)
