"""The three-dimensional measures on solids of known depth, on heads with one face and with two."""

import math
from itertools import combinations

import pytest
import torch
from metrics.solids import RADIUS, cameras, head, sphere, wall

from styleavatar3d.camera.cameras import yaw_pitch
from styleavatar3d.metrics import consistency
from styleavatar3d.metrics.consistency import (
    DepthView,
    Pose,
    back_face_score,
    cross_view_depth_error,
    depth_error,
    identity_consistency,
    mirroring,
    overlap,
    pose_errors,
    turned,
)

SIZE = 64


def test_poses_read_right_have_no_error() -> None:
    labels = torch.cat([cameras(-180, -90, 0, 37, 179, pitch=12), cameras(5, pitch=-40)])
    errors = pose_errors(Pose(*yaw_pitch(labels)), labels)
    assert all(torch.allclose(error, torch.zeros(6), atol=1e-3) for error in errors)


def test_pose_errors_of_known_turns() -> None:
    labels = cameras(170, -170, 0, 90, pitch=0)
    found = Pose(torch.tensor([-175.0, 175.0, 180.0, 90.0]), torch.tensor([0.0, 0.0, 0.0, 30.0]))
    errors = pose_errors(found, labels)
    assert torch.allclose(errors.yaw, torch.tensor([15.0, 15.0, 180.0, 0.0]), atol=1e-3)
    assert torch.allclose(errors.pitch, torch.tensor([0.0, 0.0, 0.0, 30.0]), atol=1e-3)
    assert torch.allclose(errors.pose, torch.tensor([15.0, 15.0, 180.0, 30.0]), atol=1e-3)
    high = pose_errors(Pose(torch.tensor([60.0]), torch.tensor([60.0])), cameras(0, pitch=60))
    assert high.pose.item() == pytest.approx(math.degrees(2 * math.asin(0.5 * math.sin(math.radians(30)))), abs=1e-3)


def test_a_reader_without_pitch_leaves_it_open() -> None:
    errors = pose_errors(Pose(torch.tensor([10.0]), torch.tensor([torch.nan])), cameras(0))
    assert errors.yaw.item() == pytest.approx(10, abs=1e-4) and errors.pitch.isnan() and errors.pose.isnan()


def test_turns_are_counted_the_short_way() -> None:
    a, b = torch.tensor([-179.0, 0.0, 350.0, -90.0]), torch.tensor([179.0, 180.0, -10.0, 90.0])
    assert turned(a, b).tolist() == [2.0, 180.0, 0.0, 180.0]


def test_depth_error_in_world_units() -> None:
    truth = sphere(cameras(0, 50), SIZE)
    near, far = wall(cameras(0), SIZE), wall(cameras(0), SIZE, height=-0.02)
    assert depth_error(truth.depth, truth.depth, truth.mask, truth.mask).tolist() == [0, 0]
    assert depth_error(near.depth, far.depth, near.mask, far.mask).item() == pytest.approx(
        0.02, rel=0.01
    )  # rays are slanted
    spoilt = truth.depth.clone()
    spoilt[:, 20:30] = 9.0  # less than half of the pixels: the median does not mind
    assert depth_error(spoilt, truth.depth, truth.mask, truth.mask).max() == 0
    assert depth_error(truth.depth, truth.depth, truth.mask, ~truth.mask).isposinf().all()


def test_overlap_of_silhouettes() -> None:
    half, whole = torch.zeros(1, 4, 4, dtype=torch.bool), torch.ones(1, 4, 4, dtype=torch.bool)
    half[:, :2] = True
    assert [overlap(a, b).item() for a, b in ((whole, whole), (half, whole), (half, ~half), (~whole, ~whole))] == [
        1, 0.5, 0, 1,
    ]  # fmt: skip


@pytest.mark.parametrize("yaw", [5.0, 20.0, -45.0])
def test_one_solid_seen_from_two_sides_agrees(yaw: float) -> None:
    for solid in (sphere, wall):
        here, there = solid(cameras(0, -80)[:1], SIZE), solid(cameras(yaw, pitch=10), SIZE)
        assert cross_view_depth_error(here, there).item() < 5e-4, solid
        assert cross_view_depth_error(there, here).item() < 5e-4, solid


def test_another_solid_in_the_other_view_is_as_far_off_as_it_is() -> None:
    here, there = sphere(cameras(0), 128), sphere(cameras(0), 128, radius=RADIUS + 0.03)
    middle = RADIUS**2 / 2  # half of the disc lies within
    expected = ((RADIUS + 0.03) ** 2 - middle) ** 0.5 - middle**0.5
    assert cross_view_depth_error(here, there).item() == pytest.approx(expected, rel=0.01)
    back = wall(cameras(0), SIZE, height=-0.05)
    assert cross_view_depth_error(wall(cameras(0), SIZE), back).item() == pytest.approx(0.05, rel=0.02)


def test_a_card_that_turns_with_the_camera_is_no_solid() -> None:
    """The billboard of a generator that learned pictures and no shape."""
    labels = cameras(0, 30)
    flat = sphere(labels, SIZE)
    cards = DepthView(torch.where(flat.mask, 2.7, torch.inf), flat.mask, labels)
    views = [DepthView(*(part[i : i + 1] for part in cards)) for i in range(2)]
    assert cross_view_depth_error(*views).item() > 0.02


def test_views_that_share_nothing_have_no_error() -> None:
    here, there = sphere(cameras(0), SIZE), sphere(cameras(20), SIZE, centre=(0.2, 0.2, 0.0), radius=0.02)
    empty = DepthView(there.depth, torch.zeros_like(there.mask), there.labels)
    assert cross_view_depth_error(here, empty).isnan().all() and cross_view_depth_error(empty, here).isnan().all()


def test_identity_of_avatars_that_keep_theirs() -> None:
    draw = torch.Generator().manual_seed(0)
    own, view = torch.randn(20, 1, 32, generator=draw), torch.randn(1, 6, 32, generator=draw)
    good = identity_consistency(own + 0.3 * view)
    lost = identity_consistency(torch.randn(20, 6, 32, generator=draw) + view)
    assert good.told_apart == 1 and good.same > 0.8 > good.others
    assert lost.told_apart == pytest.approx(0.5, abs=0.05) and abs(lost.same - lost.others) < 0.05
    collapsed = identity_consistency(torch.ones(5, 6, 32))  # everybody is the same: nobody is told apart
    assert collapsed == pytest.approx((1, 1, 0.5))


def test_identity_by_its_definition() -> None:
    features = torch.randn(3, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def cosine(a: int, v: int, b: int, w: int) -> float:
        return torch.cosine_similarity(features[a, v], features[b, w], dim=0).item()

    pairs = [(v, w) for v in range(3) for w in range(3) if v != w]
    same = [cosine(a, v, a, w) for a in range(3) for v, w in pairs]
    others = [cosine(a, v, b, w) for a in range(3) for b in range(3) if a != b for v, w in pairs]
    found = identity_consistency(features)
    assert found.same == pytest.approx(sum(same) / len(same)) and found.others == pytest.approx(
        sum(others) / len(others)
    )


def test_faces_count_from_behind_only() -> None:
    yaw = torch.tensor([0.0, 134.9, -135.0, 180.0, 170.0])
    assert back_face_score(torch.tensor([1.0, 1.0, 0.0, 0.6, 0.0]), yaw) == pytest.approx(0.2)
    assert math.isnan(back_face_score(torch.ones(2), yaw[:2]))


def test_a_janus_mirrors_its_front_and_a_head_does_not() -> None:
    fronts, backs = cameras(0, 0, 20), cameras(180, 180, -160)
    for size in (32, 64, 128):
        good, bad = ([*head(fronts, size, janus), *head(backs, size, janus)] for janus in (False, True))
        scores = [mirroring(front, back, mask, behind) for front, mask, back, behind in (good, bad)]
        assert scores[0][:2].abs().max() < 0.3, size
        assert scores[1][:2].min() > 0.9, size
        assert scores[1].max() <= 1 + 1e-6


def test_views_without_detail_mirror_nothing() -> None:
    blank, mask = torch.zeros(1, 3, 32, 32), torch.ones(1, 32, 32, dtype=torch.bool)
    assert mirroring(blank, blank + 0.5, mask, mask).item() == 0
    assert mirroring(blank, blank, ~mask, mask).item() == 0


def test_measures_of_a_batch_are_those_of_each() -> None:
    here, there = sphere(cameras(0, 40, -60), SIZE), sphere(cameras(20, 60, -30), SIZE, centre=(0.01, 0.0, 0.02))
    together = cross_view_depth_error(here, there)
    alone = [
        cross_view_depth_error(*(DepthView(*(part[i : i + 1] for part in view)) for view in (here, there)))
        for i in range(3)
    ]
    assert torch.allclose(together, torch.cat(alone), atol=1e-6)
    assert len(set(together.tolist())) == 3 and consistency.BACK == 135
    assert all(a != b for a, b in combinations(together.tolist(), 2))
