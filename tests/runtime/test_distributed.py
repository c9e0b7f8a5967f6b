"""A process alone is a world of one (worlds of two: tests/gan/test_train.py)."""

import pytest
import torch

from styleavatar3d.config import ConfigError
from styleavatar3d.runtime.distributed import World, connect, parameter_count


def test_alone():
    world = connect()
    assert (world.rank, world.size, world.main) == (0, 1, True)
    tensor = torch.ones(2)
    assert world.average(tensor) is tensor and world.any(True) and not world.any(False)
    world.average_gradients(torch.nn.Linear(1, 1))
    world.wait()


def test_a_batch_is_shared_in_whole_groups():
    world = World()
    world.size = 2
    assert world.share(8, 4) == 4
    with pytest.raises(ConfigError, match="multiple of 8"):
        world.share(12, 4)


def test_parameters_are_counted():
    assert parameter_count([torch.nn.Linear(3, 2), torch.nn.Linear(1, 1)]) == 10
