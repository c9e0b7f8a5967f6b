"""The yardstick is the same work everywhere, and networks are measured against it."""

import torch

from styleavatar3d.bench import generators
from styleavatar3d.bench.yardstick import in_turns, yardstick


def test_the_yardstick_is_fixed_work():
    assert torch.equal(yardstick("small")(), yardstick("small")())


def test_tasks_take_turns():
    order = []
    times = in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert order == ["a", "b"] * 3 and set(times) == {"a", "b"}


def test_a_row_a_task_in_units_of_its_yardstick(monkeypatch):
    monkeypatch.setattr(generators, "PAIRS", (generators.light,))
    rows = generators.rows(1, ("S",))
    assert [row["task"] for row in rows] == ["forward", "new view", "step of 4"]
    for row in rows:
        assert row["yardstick"] == "small" and row["ms"] > 0
        assert abs(row["ms"] / row["yardstick_ms"] - row["yardsticks"]) < 0.05
    assert rows[1]["ms"] < rows[0]["ms"] < rows[2]["ms"]
