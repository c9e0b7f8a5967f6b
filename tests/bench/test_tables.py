import pytest

from styleavatar3d.bench import figures, ops, synthesis, tables
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.ops._build import cpu_kernels


@pytest.mark.slow
@pytest.mark.skipif(cpu_kernels() is None, reason="the CPU kernels cannot be built here")
def test_kernel_and_reference_are_measured_on_the_same_work(monkeypatch, capsys):
    tiny = [size._replace(batch=1, rays=8, samples=(4, 4), plane=8) for size in ops.SIZES]
    monkeypatch.setattr(ops, "SIZES", tiny)
    result = tables.run("ops", repeats=1)
    assert [row["name"] for row in result["rows"]] == [size.name for size in tiny]
    assert all(row["forward_ratio"] > 0 and row["backward_ratio"] > 0 for row in result["rows"])
    assert "compiled kernel against plain PyTorch" in capsys.readouterr().out


def test_views_a_second_are_told_for_sizes_styles_and_processes(monkeypatch, capsys):
    for name, value in {"SIZES": (16,), "VIEWS": (2,), "FIGURES": 2, "DATASET": 3, "STYLES": ("clay",)}.items():
        monkeypatch.setattr(figures, name, value)
    monkeypatch.setattr("styleavatar3d.miniature.renders._CHUNK", 1)
    result = tables.run("figures", repeats=1)
    (row, *_) = result["rows"]
    assert row["views_per_second"] > 0 and 0 < row["build_share"] < 1 and 0 < row["rasterise_share"] < 1
    assert result["style_ms_a_view"]["clay"] > 0 and result["dataset"]["views"] == 3
    assert "views a second" in capsys.readouterr().out


def test_our_loop_is_measured_against_the_stock_pipeline_at_every_batch(monkeypatch, capsys):
    for name, value in {"BATCHES": (1, 2), "STEPS": 2}.items():
        monkeypatch.setattr(synthesis, name, value)
    result = tables.run("synthesis", repeats=1)
    assert [row["batch"] for row in result["rows"]] == [1, 2] and result["batch_2_over_1"] > 0
    assert all(0 < row["outside"] < 1 and row["stock_over_bare"] > -1 for row in result["rows"])
    assert "a batch of 2 makes" in capsys.readouterr().out


def test_a_machine_that_is_busy_for_a_turn_changes_no_ratio():
    def turn(busy: float) -> dict[int, synthesis.Turn]:
        return {n: synthesis.Turn(*(busy * s for s in (1 + n, 2 + 2 * n, 0.5 + n, 0.9 + n))) for n in (1, 8)}

    rows, gain = synthesis.compare([turn(busy) for busy in (1, 1, 7, 30, 1)])
    assert gain == pytest.approx(8 * 2 / 9)
    for row, n in zip(rows, (1, 8), strict=True):
        assert row["outside"] == pytest.approx(0.1 / (1 + n), abs=1e-4)
        assert row["ours_over_bare"] == pytest.approx(0.5 / (0.5 + n), abs=1e-4)


def test_an_unknown_table_is_named():
    with pytest.raises(StyleAvatarError, match="there is no such table"):
        tables.run("speed")
    with pytest.raises(StyleAvatarError, match="at least 1"):
        tables.run("ops", repeats=0)


def test_without_a_kernel_there_is_nothing_to_compare(monkeypatch):
    monkeypatch.setenv("STYLEAVATAR3D_KERNELS", "off")
    with pytest.raises(StyleAvatarError, match="no compiled kernel"):
        ops.run()
