"""What learns: averages beside the moments, parts of tensors. (Real processes: tests/stylespace/test_processes.py)"""

import pytest
import torch

from styleavatar3d.runtime.distributed import World
from styleavatar3d.runtime.learner import AveragedAdamW, learner, part


def test_parts_make_up_the_whole_where_the_processes_do_not_divide_it():
    world, whole, parts = World(), torch.arange(10.0).view(5, 2), []
    world.size = 4
    for world.rank in range(4):
        parts.append(part(whole, world))
    assert {len(one) for one in parts} == {3}
    assert torch.equal(torch.cat(parts), torch.cat([whole.flatten(), torch.zeros(2)]))


def test_the_average_follows_the_weights_and_the_gradient_is_clipped():
    network = torch.nn.Linear(2, 1)
    before = network.weight.detach().clone()
    optimizer = AveragedAdamW(network.parameters(), 0.1)
    learns = learner(network, optimizer, World(), batch=1, clip=0.5)
    learns.step(1e3 * learns(torch.ones(1, 2)).sum(), rate=0.1, average_weight=0.25)
    average = torch.nn.Linear(2, 1)
    learns.average_into(average)
    torch.testing.assert_close(average.weight, before.lerp(network.weight, 0.25))
    moments = [state["exp_avg"] for state in optimizer.state.values()]
    assert torch.cat([one.flatten() for one in moments]).norm().item() == pytest.approx(0.1 * 0.5, rel=1e-4)


def test_tensors_of_one_learner_make_another():
    def new(saved=None):
        network = torch.nn.Linear(2, 1)
        return learner(network, AveragedAdamW(network.parameters(), 0.1), World(), batch=1, saved=saved)

    one = new()
    for _ in range(2):
        one.step(one(torch.ones(1, 2)).sum(), 0.1, 0.5)
    other = new({name: tensor.clone() for name, tensor in one.tensors().items()})
    for each in (one, other):
        each.step(each(torch.ones(1, 2)).sum(), 0.1, 0.5)
    for name, tensor in one.tensors().items():
        assert torch.equal(tensor, other.tensors()[name]), name
