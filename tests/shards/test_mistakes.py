"""Every seeded mistake is named, on every rig; true cameras are never blamed."""

import numpy
import pytest
import torch
from shards.mistaken import MISTAKES, MORE, orbit

from styleavatar3d.camera.cameras import orbit_labels
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.shards.mistakes import camera_mistakes, refuse_mistakes


def rig(seed: int, count: int, yaw: float, pitch: float, radius=2.7, focal=4.2647, pivot=(0.0, 0.0, 0.0)):
    draw = numpy.random.default_rng(seed)
    yaws, pitches = draw.uniform(-yaw, yaw, count), draw.uniform(-pitch, pitch, count)
    labels = orbit_labels(torch.from_numpy(yaws).float(), torch.from_numpy(pitches).float(), radius, focal, pivot)
    return labels.double().numpy()


def estimated(seed: int) -> numpy.ndarray:
    """As pose estimators leave them: a little roll, a little past the head, at uneven distances."""
    labels, draw = rig(seed, 60, 70, 20), numpy.random.default_rng(seed)
    for label in labels:
        roll = draw.normal(0, 6) * numpy.pi / 180
        turn = numpy.eye(4)
        turn[:2, :2] = [[numpy.cos(roll), -numpy.sin(roll)], [numpy.sin(roll), numpy.cos(roll)]]
        matrix = label[:16].reshape(4, 4) @ turn
        matrix[:3, 3] = matrix[:3, 3] * draw.uniform(0.8, 1.3) + draw.normal(0, 0.05, 3)
        label[:16] = matrix.ravel()
    return labels


RIGS = {
    "all around": rig(0, 50, 180, 25),
    "faces": rig(1, 40, 50, 20),
    "few": rig(2, 6, 90, 20),
    "pivot of EG3D": rig(3, 40, 60, 20, pivot=(0, 0, 0.2)),
    "pyramid": rig(4, 40, 180, 25, focal=6.5104, pivot=(0, 0.0649, 0)),
    "near and wide": rig(5, 40, 120, 30, radius=1.2, focal=1.9),
    "far and long": rig(6, 30, 80, 20, radius=6.0, focal=9.0),
    "estimated": estimated(7),
    "steep": rig(8, 200, 180, 60),
}


POLES = numpy.concatenate([rig(9, 2, 180, 0), orbit(numpy.array([179, -180]), numpy.array([89, -89]), rig(0, 2, 9, 9))])


@pytest.mark.parametrize("name", [*RIGS, "from above and below"])
def test_true_cameras_are_not_blamed(name: str):
    labels = RIGS.get(name, POLES)
    assert camera_mistakes(labels.tolist()) == []
    assert [camera_mistakes([label]) for label in labels[:6].tolist() if camera_mistakes([label])] == []


UNDECIDED = {
    ("radians as degrees", "few"),  # six cameras may well stand close together
    ("face to the back", "few"),
    ("field of view in degrees", "far and long"),  # 6.4 is a focal length as good as the true 9
}


def test_there_are_thirty():
    assert len(MISTAKES) == 30


@pytest.mark.parametrize("mistake", [*MISTAKES, *MORE])
def test_mistakes_are_named(mistake: str):
    make, word = (MISTAKES | MORE)[mistake]
    for name, labels in RIGS.items():
        if (mistake, name) in UNDECIDED or (mistake == "face to the back" and labels[:, 10].mean() > -0.6):
            continue
        wrong = make(labels.copy()).tolist()
        found = camera_mistakes(wrong)
        assert found, f"{mistake} on '{name}' is not seen"
        with pytest.raises(StyleAvatarError) as caught:
            refuse_mistakes(found, [f"{i:09d}" for i in range(len(wrong))])
        assert word in str(caught.value), f"{mistake} on '{name}' is called {caught.value}"


@pytest.mark.parametrize("mistake", ["not finite", "sheared", "scaled rotation", "no translation", "camera y flipped"])
def test_one_bad_camera_among_good_ones_is_named_with_its_key(mistake: str):
    make, word = MISTAKES[mistake]
    labels = RIGS["all around"].copy()
    labels[7] = make(labels[7:8].copy())[0]
    (found,) = camera_mistakes(labels.tolist())
    assert found.rows == [7] and word in found.name


def test_single_cameras_that_look_away_or_stand_elsewhere():
    labels = RIGS["all around"].copy()
    labels[3, [2, 6, 10, 1, 5, 9]] *= -1
    labels[9, [3, 7, 11]] *= 3.4 / 2
    assert [(m.name, m.rows) for m in camera_mistakes(labels.tolist())] == [("axes flipped", [3])]
    labels[9, [3, 7, 11]] *= 40
    assert {row for m in camera_mistakes(labels.tolist()) for row in m.rows} == {3, 9}


@pytest.mark.parametrize("seed", range(20))
def test_a_transposed_rotation_shows_although_orbits_are_nearly_level(seed: int):
    """Where the pitch is 0 the rotation is symmetric, so only the other cameras tell."""
    change, word = MISTAKES["rotation transposed"]
    labels = rig(100 + seed, 12, 180, 15)
    assert any(word in f"{m.name} {m.what}" for m in camera_mistakes(change(labels).tolist()))


def test_ragged_and_strange_labels_are_named():
    good = RIGS["all around"].tolist()
    strange = [[1.0] * 16, [], [None] * 25, ["1"] * 25, [10**400] * 25, [True] * 24, [[1.0]] * 25]
    found = camera_mistakes([*good, *strange])
    assert sorted(row for mistake in found for row in mistake.rows) == list(range(50, 57))
