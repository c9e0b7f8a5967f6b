"""Who reads what is pure: permutations, disjoint cover, resume at any sample; and mirrors mirror everything."""

import pickle

import pytest
import torch

from styleavatar3d.camera.cameras import Camera
from styleavatar3d.shards.loader import ShardDataset, indices_at, mirror, order

COUNT = 37


def test_an_epoch_is_a_permutation_and_epochs_differ():
    assert sorted(order(1, 0, COUNT)) == list(range(COUNT))
    assert len({tuple(order(seed, epoch, COUNT)) for seed, epoch in ((1, 0), (1, 1), (2, 1))}) == 3


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_ranks_share_each_batch_without_overlap(world: int):
    for position in range(0, 3 * COUNT, 12):
        together = [indices_at(5, position, 12, COUNT, rank, world) for rank in range(world)]
        assert sorted(sum(together, [])) == sorted(indices_at(5, position, 12, COUNT))


def test_resuming_at_any_sample_continues_the_same_stream():
    stream = [indices_at(3, position, 1, COUNT)[0] for position in range(4 * COUNT)]
    assert [stream[e * COUNT : (e + 1) * COUNT] for e in range(4)] == [list(order(3, e, COUNT)) for e in range(4)]
    for position in range(0, 3 * COUNT):
        assert indices_at(3, position, 10, COUNT) == stream[position : position + 10]


def test_the_mirror_swaps_picture_mask_label_and_words(dataset_url: str):
    for sample in ShardDataset(dataset_url):
        image = mirror(sample)
        assert torch.equal(image["image"], sample["image"].flip(2)) and torch.equal(
            image["mask"], sample["mask"].flip(2)
        )
        yaw = (-sample["json"]["yaw"] + 180) % 360 - 180
        assert torch.allclose(image["label"], Camera.orbit(yaw, sample["json"]["pitch"]).label(), atol=1e-6)
        assert image["json"]["camera"] == image["label"].tolist() and image["json"]["yaw"] == yaw
        assert {sample["json"]["view"], image["json"]["view"]} == {"left", "right"}
        assert image["json"]["view"] in image["json"]["prompt"]
        back = mirror(image)
        assert torch.equal(back["image"], sample["image"]) and torch.equal(back["label"], sample["label"])
        assert back["json"] == sample["json"]


def test_a_data_set_travels_to_worker_processes(dataset_url: str):
    dataset = ShardDataset(dataset_url)
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[4]["image"], dataset[4]["image"])
