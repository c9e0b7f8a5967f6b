"""Encoding goes on beside drawing, and changes nothing."""

import threading

import pytest
from shards.samples import make_sample

from styleavatar3d.shards.schema import Coding
from styleavatar3d.shards.writer import members_of, pack
from styleavatar3d.synthesis.overlap import encoded, overlapped


def test_a_batch_is_finished_while_the_next_is_made():
    making_second = threading.Event()

    def make(batch: int) -> int:
        if batch == 1:
            making_second.set()
        return batch * 10

    def finish(made: int) -> int:
        if made == 0:
            assert making_second.wait(10)  # would never come, were it one after the other
        return made + 1

    assert list(overlapped([0, 1, 2], make, finish)) == [1, 11, 21]
    assert list(overlapped([], make, finish)) == []


@pytest.mark.parametrize("culprit", ["make", "finish"])
def test_an_error_of_either_side_is_raised(culprit: str):
    def fail(value: int) -> int:
        raise RuntimeError("broken")

    steps = {"make": lambda value: value, "finish": lambda value: value} | {culprit: fail}
    with pytest.raises(RuntimeError, match="broken"):
        list(overlapped([1, 2], **steps))


@pytest.mark.parametrize("coding", [Coding(), Coding(image="jpeg")])
def test_encoded_samples_pack_to_the_same_bytes(coding: Coding):
    sample = make_sample(0)
    done = encoded([sample], coding)
    assert isinstance(done[0].image, bytes) and members_of(done[0], coding) == members_of(sample, coding)
    assert pack(done, coding) == pack([sample], coding)
