"""Who reads what is pure: permutations, disjoint cover, resume at any sample; and mirrors mirror everything."""

import pickle
from pathlib import Path

import pytest
import torch
from shards.samples import make_dataset

from styleavatar3d.camera.cameras import Camera
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.shards.loader import ShardDataset, batches, indices_at, mirror, order
from styleavatar3d.shards.manifest import read_manifest
from styleavatar3d.shards.order import Batches, stream
from styleavatar3d.shards.parquet import finish

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


def test_orders_are_fair():
    """Every sample comes to every place equally often: chi-square over many epochs, at 5 standard deviations."""
    count, epochs = 7, 3000
    table = torch.zeros(count, count)
    for epoch in range(epochs):
        table[torch.arange(count), torch.from_numpy(order(0, epoch, count))] += 1
    statistic = ((table - epochs / count) ** 2 / (epochs / count)).sum().item()
    freedom = (count - 1) ** 2
    assert abs(statistic - freedom) < 5 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("count", [1, 2, 3, 16, 17, 1000])
def test_orders_of_any_length_are_permutations(count: int):
    assert sorted(order(3, 5, count).tolist()) == list(range(count))


def test_a_place_costs_the_same_anywhere():
    """No list of all samples is made: ten thousand million would not fit."""
    count = 10**10
    assert len(set(indices_at(1, 9 * 10**9, 64, count))) == 64
    assert indices_at(1, 9 * 10**9 + 5, 3, count) == indices_at(1, 9 * 10**9, 64, count)[5:8]


def test_the_world_may_change_within_an_epoch(dataset_url: str):
    """Eight samples by one rank, then by two, then by four, then by three: the order stays that of one rank."""
    dataset, whole = ShardDataset(dataset_url), stream(3, 18, 0, 72).tolist()
    position, seen = 0, []
    for world, steps in ((1, 1), (2, 2), (4, 1), (3, 2)):
        parts = [iter(Batches(len(dataset), 8, 3, position, rank=rank, world=world)) for rank in range(world)]
        for _ in range(steps):
            batch = [next(part) for part in parts]
            merged = [batch[i % world][i // world] for i in range(8)]
            seen += merged
        position += 8 * steps
    assert seen == whole[: len(seen)] and len(seen) == 48


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_resume_anywhere_whatever_the_workers(dataset_url: str, workers: int):
    dataset = ShardDataset(dataset_url)
    dataset[0]  # files are open when workers fork
    wanted = [dataset[i]["json"]["index"] for i in stream(0, 18, 0, 40).tolist()]
    found = []
    for batch in batches(dataset, 5, seed=0, position=10, until=40, workers=workers):
        assert batch["image"].shape == (5, 3, 16, 16) and batch["label"].shape == (5, 25)
        found += [record["index"] for record in batch["json"]]
    assert found == wanted[10:]


def test_wanted_parts_alone_are_read(dataset_url: str):
    sample = ShardDataset(dataset_url, parts=("image",))[2]
    assert sample.keys() == {"image", "label"}
    with pytest.raises(StyleAvatarError, match="no such part"):
        ShardDataset(dataset_url, parts=("depth",))


def test_an_index_is_read_in_place_of_the_manifest(dataset_url: str):
    storage = Storage.open(dataset_url)
    before = [sample["json"] for sample in ShardDataset(dataset_url)]
    assert finish(storage) == finish(storage) == read_manifest(storage)
    for name in storage.list("manifest")[1:]:
        storage.delete(name)
    assert len(ShardDataset(dataset_url)) == len(before)
    assert ShardDataset(dataset_url)[0]["json"] == before[0]


def test_s3_samples_are_read_by_range_and_nothing_is_kept(s3_server: str, dataset_url: str, tmp_path: Path):
    make_dataset(s3_server + "/set")
    far = ShardDataset(s3_server + "/set", cache=tmp_path / "cache", whole=False)
    assert torch.equal(far.load([9, 0, 17])["image"], ShardDataset(dataset_url).load([9, 0, 17])["image"])
    assert not (tmp_path / "cache").exists()
