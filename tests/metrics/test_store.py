"""A store is the same whoever wrote it, in whatever order, and however often it was stopped."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.metrics.distribution import Gaussian, frechet_distance
from styleavatar3d.metrics.store import FeatureStore
from styleavatar3d.runtime.random import normal

ABOUT = {"features": "clip-8-0123"}
COUNT, PART, WIDTH = 47, 10, 8
ROOT = Path(__file__).resolve().parents[2]


def measure(pictures: range) -> dict[str, torch.Tensor]:
    features = normal(0, "features", pictures.start, (len(pictures), WIDTH))
    return {"features": features, "yaw": torch.tensor([float(picture) for picture in pictures])}


def store(folder: Path, **other) -> FeatureStore:
    return FeatureStore(str(folder), **{"count": COUNT, "about": ABOUT, "part": PART} | other)


@pytest.fixture
def alone(tmp_path: Path) -> FeatureStore:
    one = store(tmp_path / "alone")
    one.fill(measure)
    return one


def same(one: FeatureStore, other: FeatureStore) -> bool:
    left, right = one.gaussian(), other.gaussian()
    return torch.equal(left.mean, right.mean) and torch.equal(left.root, right.root)


def test_parts_cover_every_picture_once(alone: FeatureStore) -> None:
    assert [picture for number in alone.parts for picture in alone.pictures(number)] == list(range(COUNT))
    assert alone.gather("yaw").tolist() == list(range(COUNT))


@pytest.mark.parametrize("size", [2, 3, 7])
def test_many_processes_write_what_one_writes(tmp_path: Path, alone: FeatureStore, size: int) -> None:
    many = store(tmp_path / "many")
    shares = [many.missing(rank, size) for rank in range(size)]
    assert sorted(sum(shares, [])) == list(many.parts)
    for rank in reversed(range(size)):
        store(tmp_path / "many").fill(measure, rank, size)
    assert same(many, alone) and torch.equal(many.gather("features"), alone.gather("features"))


@pytest.mark.slow
def test_two_real_processes_write_what_one_writes(tmp_path: Path, alone: FeatureStore) -> None:
    script = (
        "import sys; from pathlib import Path; from metrics.test_store import measure, store\n"
        "store(Path(sys.argv[1])).fill(measure, int(sys.argv[2]), 2)"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    commands = [[sys.executable, "-c", script, str(tmp_path / "two"), str(rank)] for rank in range(2)]
    workers = [subprocess.Popen(command, env=environment) for command in commands]
    assert [worker.wait(200) for worker in workers] == [0, 0]
    assert same(store(tmp_path / "two"), alone)


def test_a_killed_run_goes_on_with_another_number_of_processes(tmp_path: Path, alone: FeatureStore) -> None:
    calls = []

    def killed(pictures: range) -> dict[str, torch.Tensor]:
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(pictures.start)
        return measure(pictures)

    with pytest.raises(KeyboardInterrupt):
        store(tmp_path / "run").fill(killed)
    run = store(tmp_path / "run")
    with pytest.raises(StyleAvatarError, match=r"not finished[\s\S]*3 of 5 parts"):
        run.gaussian()
    again = []
    for rank in range(2):
        run.fill(lambda pictures: again.append(pictures.start) or measure(pictures), rank, 2)
    assert sorted(calls + again) == [0, 10, 20, 30, 40] and same(run, alone)


def test_some_of_the_pictures_are_compared_alone(alone: FeatureStore) -> None:
    yaw, features = alone.gather("yaw"), alone.gather("features")
    chosen = (yaw >= 15) & (yaw < 40)  # leaves whole parts empty
    found, expected = alone.gaussian(among=chosen), Gaussian.of(features[chosen])
    assert found.count == 25 and torch.allclose(found.mean, expected.mean, rtol=0, atol=1e-14)
    assert torch.allclose(found.covariance, expected.covariance, rtol=0, atol=1e-14)
    assert frechet_distance(alone.gaussian(), features) == pytest.approx(0, abs=1e-12)


def test_two_networks_are_never_mixed(tmp_path: Path, alone: FeatureStore) -> None:
    for other in ({"about": {"features": "inception"}}, {"count": 5}, {"part": 3}):
        with pytest.raises(StyleAvatarError, match="something else"):
            store(tmp_path / "alone", **other)


def test_parts_that_cannot_be_used_are_named(tmp_path: Path, alone: FeatureStore) -> None:
    with pytest.raises(StyleAvatarError, match="too few rows"):
        alone.write(0, {"features": torch.zeros(3, WIDTH)})
    (tmp_path / "alone/parts/00000002.safetensors").write_bytes(b"half a fi")
    with pytest.raises(StyleAvatarError, match=r"00000002\.safetensors .* is damaged"):
        alone.gaussian()
    with pytest.raises(StyleAvatarError, match="needs pictures"):
        store(tmp_path / "none", count=0)


def test_on_s3_too(s3_server: str, alone: FeatureStore) -> None:
    far = FeatureStore(f"{s3_server}/features", COUNT, ABOUT, PART)
    for rank in (1, 0):
        far.fill(measure, rank, 2)
    assert same(far, alone)
