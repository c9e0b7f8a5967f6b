"""Many processes measure what one measures, a stopped call goes on, and what is read is what was shown."""

import shutil
from pathlib import Path

import pytest
import tiny
import torch

from styleavatar3d.bench import avatars, evaluate_generator
from styleavatar3d.bench.avatars import around_labels, measure_figure, surface
from styleavatar3d.bench.held_out import HELD_OUT
from styleavatar3d.bench.held_out import World as HeldOut
from styleavatar3d.bench.population import Job, Population, codes_of, stored
from styleavatar3d.bench.workers import _fill_share, fill
from styleavatar3d.camera.cameras import yaw_pitch
from styleavatar3d.camera.rays import box_intersection, rays
from styleavatar3d.encoders.estimators import Estimator
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.dress import build_figure
from styleavatar3d.figures.looks import Look
from styleavatar3d.gan.generator import Generator, GeneratorConfig, Rendering
from styleavatar3d.metrics.features import ClipFeatures
from styleavatar3d.metrics.judge import Judge
from styleavatar3d.miniature.renders import render_dataset
from styleavatar3d.runtime.distributed import World


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readers")
    tiny.write_clip(folder / "clip")
    torch.manual_seed(0)
    config = GeneratorConfig(
        z_dim=16, w_dim=16, widths=(16, 16, 16), plane_channels=4, decoder_width=8, samples=(6, 6), resolution=16
    )
    generator = Generator(config)
    generator.renderer.decoder.output_bias.data[0] = 1.0  # dense enough for a surface
    generator.save_pretrained(str(folder / "generator"))
    Judge((8, 8, 8, 8)).save_pretrained(folder / "judge")
    Estimator(("nose",), (8, 8, 8, 8)).save_pretrained(folder / "estimators")
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avatars, "BUILDS", (0.5,))
    monkeypatch.setattr(avatars, "FACES", 1)


def job(folder: Path, store: Path, **more) -> Job:
    return Job(
        str(folder / "generator"),
        str(folder),
        str(store),
        **{"samples": 7, "avatars": 1, "part": 3, "avatar_part": 1} | more,
    )


def test_the_held_out_world_is_the_same_in_parts(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("styleavatar3d.miniature.renders._CHUNK", 3)
    monkeypatch.setattr("styleavatar3d.miniature.renders.fingerprint", str)
    world = HeldOut(render_dataset(3, HELD_OUT, views_per_figure=1))
    parts = Population(job(folder, tmp_path))
    parts.__dict__["generator"] = type("Sized", (), {"config": GeneratorConfig(resolution=64)})
    assert torch.equal(parts.job.labels(range(3)), world.labels)
    assert torch.equal(torch.cat([parts.renders(range(1)), parts.renders(range(1, 3))]), world.images)


def test_cameras_told_are_independent_of_cameras_seen_from(folder: Path, tmp_path: Path) -> None:
    asked, told = (getattr(job(folder, tmp_path), name)(range(400)) for name in ("labels", "conditioning"))
    yaws = torch.stack([yaw_pitch(labels)[0] for labels in (asked, told)])
    assert abs(torch.corrcoef(yaws)[0, 1]) < 0.15 and not torch.isclose(*yaws).any()
    assert abs((yaws.abs() < 50).float().mean(1).diff()) < 0.1  # and of one distribution

    class Listening:
        def mapping(self, z, labels=None):
            return labels

    assert torch.equal(codes_of(Listening(), torch.zeros(400, 4), told), told)
    assert codes_of(Population(job(folder, tmp_path)).generator, torch.zeros(2, 16), told[:2]).shape == (2, 6, 16)


def test_two_processes_measure_what_one_measures(folder: Path, tmp_path: Path) -> None:
    alone = Population(job(folder, tmp_path / "one"))
    fill(alone, World())
    shared = Population(job(folder, tmp_path / "two"))
    for rank in (1, 0):
        _fill_share(shared, rank, 2)
    for source in alone.job.sources:
        for number in alone.store(source).parts:
            one, two = alone.store(source).read(number), shared.store(source).read(number)
            assert all(torch.equal(one[name].nan_to_num(), two[name].nan_to_num()) for name in one), source
    first = evaluate_generator.distances(alone) | evaluate_generator.solidity(alone)
    assert first == evaluate_generator.distances(shared) | evaluate_generator.solidity(shared)


@pytest.mark.slow
def test_workers_share_the_work(folder: Path, tmp_path: Path) -> None:
    found = []
    for workers in (1, 2):
        measured = Population(job(folder, tmp_path / str(workers), avatars=0, untrained=False))
        fill(measured, World(), workers)
        found.append(evaluate_generator.distances(measured))
    assert found[0] == found[1]


def test_a_stopped_call_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    images = Population.images

    def counted(self, source, pictures):
        seen.append((source, pictures.start))
        if len(seen) == 2:
            raise KeyboardInterrupt
        return images(self, source, pictures)

    monkeypatch.setattr(Population, "images", counted)
    work = job(folder, tmp_path, avatars=0, untrained=False)
    with pytest.raises(KeyboardInterrupt):
        fill(Population(work), World())
    fill(Population(work), World())
    assert seen == [("renders", 0), ("renders", 3), ("renders", 3), ("renders", 6)] + [
        ("generator", first) for first in (0, 3, 6)
    ]


def test_other_features_need_another_store(folder: Path, tmp_path: Path) -> None:
    work = Population(job(folder, tmp_path / "store"))
    work.store("generator")
    shutil.copytree(folder, tmp_path / "readers")
    torch.manual_seed(9)
    Judge((8, 8, 8, 8)).save_pretrained(tmp_path / "readers" / "judge")
    with pytest.raises(StyleAvatarError, match="something else"):
        Population(job(tmp_path / "readers", tmp_path / "store")).store("generator")


def test_several_processes_need_a_store() -> None:
    world = World()
    world.size = 2
    with pytest.raises(StyleAvatarError, match="need a store"), stored(Job("", "", ""), world):
        pass
    with stored(Job("", "", ""), World()) as temporary:
        assert Path(temporary.store).is_dir()
    assert not Path(temporary.store).exists()


def test_a_real_figure_is_solid_and_no_janus(folder: Path) -> None:
    """The measures on exact geometry: what the best possible generator would get at 64 px."""
    measured = [measure_figure(Judge((8, 8, 8, 8)), ClipFeatures(folder / "clip"), index, 0, 64) for index in range(3)]
    assert max(one["cross-view depth"].median().item() for one in measured) < 0.004
    assert max(one["mirroring"].mean().item() for one in measured) < 0.6
    assert measured[0]["features"].shape == (12, 16) and measured[0]["face behind"].shape == (3,)


def test_the_surface_is_where_rays_end() -> None:
    """A rendering whose rays end half way between wall and far side, all but a tenth of each, which passes through."""
    labels, config = around_labels()[:2], GeneratorConfig()
    far = box_intersection(*rays(labels, 8), config.box)[1].view(2, 1, 8, 8)
    mask = torch.full((2, 1, 8, 8), 0.96)
    picture = torch.zeros(2, 3, 8, 8)
    found = surface(Rendering(picture, picture, mask, 0.96 * 2.5 + 0.04 * far), labels, config)
    assert torch.allclose(found.depth, torch.full((2, 8, 8), 2.5), atol=1e-5) and found.mask.all()
    assert not surface(Rendering(picture, picture, mask * 0.9, far), labels, config).mask.any()
    best = build_figure(Look())
    fit = avatars._depth_fit(
        avatars.DepthView(avatars.figure_depth(best, avatars.depth_labels(), 32), torch.ones(6, 32, 32).bool(),
                          avatars.depth_labels()), Look(seed=0, build=0.5),
    )  # fmt: skip
    assert fit["depth error"].max() < 0.02
