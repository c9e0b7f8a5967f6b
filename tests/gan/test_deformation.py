"""The neck-and-head deformation: rest, inverse, where it acts, gradients; and poses that are learned."""

import math

import pytest
import torch

from styleavatar3d.camera.cameras import mirror_labels, orbit_labels
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.heads import HEAD_HEIGHT, HeadModel
from styleavatar3d.gan.deformation import (
    HEAD,
    MOST_ANGLE,
    NECK,
    PoseHead,
    check_poses,
    choose_poses,
    mirror_poses,
    posed,
    unpose,
)

FLIP = torch.tensor([-1.0, 1.0, 1.0])


def points(count: int = 500, batch: int = 1, dtype=torch.float32) -> torch.Tensor:
    return torch.rand(batch, count, 3, generator=torch.Generator().manual_seed(0), dtype=dtype) - 0.5


def poses(batch: int, share: float = 1.0, dtype=torch.float32) -> torch.Tensor:
    """Both joints turned by `share` of the most, about any axes."""
    axes = torch.randn(batch, 2, 3, generator=torch.Generator().manual_seed(1), dtype=dtype)
    return (axes / axes.norm(dim=2, keepdim=True) * MOST_ANGLE * share).flatten(1)


def template(name: str) -> torch.Tensor:
    """A point of the average figure in the world."""
    model = HeadModel.load()
    scale = HEAD_HEIGHT / (model.template[model.points["crown"], 1] - model.template[model.points["chin"], 1])
    ears = model.template[[model.points["left_ear"], model.points["right_ear"]]].mean(0)
    return (model.template[model.joints.get(name, model.points.get(name))] - ears) * scale


def test_the_joints_are_those_of_the_parametric_figure():
    for name, joint in (("neck", NECK), ("head", HEAD)):
        assert torch.allclose(template(name), torch.tensor(joint.place), atol=2e-4)


def test_rest_is_the_identity_to_the_bit():
    at = points(batch=2)
    assert torch.equal(unpose(at, torch.zeros(2, 6)), at) and torch.equal(posed(at, torch.zeros(2, 6)), at)


@pytest.mark.parametrize("dtype, error", [(torch.float32, 3e-6), (torch.float64, 1e-6)])
def test_it_can_be_undone_in_the_whole_volume_up_to_45_degrees(dtype, error):
    at, turns = points(500, 32, dtype), poses(32, dtype=dtype)
    assert (posed(unpose(at, turns), turns) - at).norm(dim=2).max() < error
    assert (unpose(posed(at, turns), turns) - at).norm(dim=2).max() < error


def test_no_two_points_come_together():
    """Nothing is folded: Jacobians keep their sign; each joint squeezes to 1 - 0.85 of the volume at most."""
    at = points(300, 16, torch.float64).requires_grad_()
    out = posed(at, poses(16, dtype=torch.float64))
    rows = [torch.autograd.grad(out[..., i].sum(), at, retain_graph=True)[0] for i in range(3)]
    assert torch.linalg.det(torch.stack(rows, 2)).min() > (1 - 0.85) ** 2


def test_a_turned_head_carries_the_face_and_leaves_the_shoulders():
    turn = torch.tensor([[0.0, 0.0, 0.0, 0.0, math.radians(30), 0.0]])
    names = ("nose", "crown", "left_eye", "right_ear", "chin", "l-shoulder", "r-shoulder")
    at = torch.stack([template(name) for name in names])[None]
    moved, joint = posed(at, turn), torch.tensor(HEAD.place)
    whole = torch.tensor([[math.cos(a), 0.0, math.sin(a)] for a in [math.radians(30)]])[0]
    matrix = torch.tensor([[whole[0], 0.0, whole[2]], [0.0, 1.0, 0.0], [-whole[2], 0.0, whole[0]]])
    rigid = (at - joint) @ matrix.T + joint
    assert moved[0, 0, 0] > at[0, 0, 0] + 0.05  # the nose goes to the figure's left
    assert torch.allclose(moved[0, :4], rigid[0, :4], atol=2e-3)
    assert (moved[0, 4] - rigid[0, 4]).norm() < 0.2 * (rigid[0, 4] - at[0, 4]).norm()
    assert torch.allclose(moved[0, 5:], at[0, 5:], atol=1e-3)


def test_a_bent_neck_carries_the_head_and_leaves_the_chest():
    turn = torch.tensor([[math.radians(25), 0.0, 0.0, 0.0, 0.0, 0.0]])
    at = torch.stack([template(name) for name in ("nose", "crown", "l-shoulder")] + [torch.tensor([0.0, -0.38, 0.1])])
    moved = posed(at[None], turn)[0]
    assert moved[1, 2] > at[1, 2] + 0.1 and moved[0, 1] < at[0, 1] - 0.05  # forwards and down
    assert (moved[2:] - at[2:]).norm(dim=1).max() < 0.04
    apart, before = (x[0] - x[1] for x in (moved, at))
    assert apart.norm().item() == pytest.approx(before.norm().item(), rel=1e-3)  # the head is not bent itself


def test_it_is_smooth():
    """Neighbours stay neighbours: lengths change by a factor within the stated bounds."""
    at, step = points(2000, 8, torch.float64), 1e-5
    turns = poses(8, dtype=torch.float64)
    away = torch.randn(at.shape, generator=torch.Generator().manual_seed(2), dtype=torch.double)
    away = away / away.norm(dim=2, keepdim=True) * step
    stretch = (posed(at + away, turns) - posed(at, turns)).norm(dim=2) / step
    assert stretch.min() > 0.02 and stretch.max() < 4.5


def test_gradients_are_those_of_the_exact_inverse():
    at, turns = points(40, 2, torch.float64).requires_grad_(), poses(2, 0.8, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(unpose, (at, turns), fast_mode=True, atol=1e-4, rtol=1e-3)
    assert torch.autograd.gradcheck(posed, (at, turns), fast_mode=True, atol=1e-4, rtol=1e-3)


def test_gradients_at_rest_are_not_lost():
    turns = torch.zeros(2, 6, dtype=torch.float64, requires_grad=True)
    at = points(20, 2, torch.float64)
    assert torch.autograd.gradcheck(lambda t: unpose(at, t), turns, fast_mode=True, atol=1e-4, rtol=1e-3)
    (gradient,) = torch.autograd.grad(unpose(at, turns)[..., 0].sum(), turns)
    assert gradient.isfinite().all() and gradient.abs().sum() > 0


def test_points_on_a_joint_do_no_harm():
    at = torch.tensor([[NECK.place, HEAD.place]]).requires_grad_()
    turns = poses(1).requires_grad_()
    unpose(at, turns).sum().backward()
    assert at.grad.isfinite().all() and turns.grad.isfinite().all()


def test_mirrored_poses_move_mirrored_points():
    at, turns = points(100, 4), poses(4)
    assert torch.allclose(posed(at * FLIP, mirror_poses(turns)), posed(at, turns) * FLIP, atol=1e-6)
    assert torch.allclose(unpose(at * FLIP, mirror_poses(turns)), unpose(at, turns) * FLIP, atol=1e-5)


def test_poses_beyond_45_degrees_are_refused():
    check_poses(poses(4))
    for bad in (poses(1, 1.05), torch.full((1, 6), torch.nan)):
        with pytest.raises(StyleAvatarError, match="turns too far"):
            check_poses(bad)


def test_poses_are_chosen_within_bounds_and_start_at_rest():
    torch.manual_seed(0)
    head, z = PoseHead(8 + 25, (16,)), torch.randn(64, 8)
    labels = orbit_labels(torch.linspace(-170, 170, 64), torch.zeros(64))
    assert torch.equal(choose_poses(head, z, labels), torch.zeros(64, 6))
    torch.nn.init.normal_(head.out.weight, std=30)
    chosen = choose_poses(head, z, labels)
    check_poses(chosen)
    assert chosen.abs().max() > 0.3


def test_mirrored_cameras_have_mirrored_poses():
    torch.manual_seed(0)
    head, z = PoseHead(8 + 25, (16,)), torch.randn(20, 8)
    torch.nn.init.normal_(head.out.weight)
    labels = orbit_labels(torch.linspace(5, 175, 20), torch.linspace(-20, 20, 20))
    assert torch.allclose(
        choose_poses(head, z, mirror_labels(labels)), mirror_poses(choose_poses(head, z, labels)), atol=1e-6
    )


def test_a_pose_head_learns_poses():
    torch.manual_seed(0)
    head, z = PoseHead(4 + 25, (32,)), torch.randn(16, 4)
    labels, wanted = orbit_labels(torch.linspace(-170, -10, 16), torch.zeros(16)), poses(16, 0.5)
    optimizer = torch.optim.Adam(head.parameters(), 0.02)
    for _ in range(200):
        loss = (choose_poses(head, z, labels) - wanted).square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02
