"""The loader's table, at a size that takes a moment."""

import pytest

from styleavatar3d.bench import loader, tables


def test_zip_and_shards_are_read_alike_and_resumed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    small = {"SIZE": 32, "DISTINCT": 2, "COUNT": 8, "BATCH": 4, "RESUMED": 3000, "AT": 2000}
    for name, value in small.items():
        monkeypatch.setattr(loader, name, value)
    table = tables.run("loader", repeats=1)
    assert [row["name"] for row in table["rows"]] == [
        "EG3D zip, PNG", "shards, PNG", "EG3D zip, JPEG q95", "shards, JPEG q95",
    ]  # fmt: skip
    assert all(row["images_per_s"] > 0 and row["bytes"] > 0 for row in table["rows"])
    assert table["resume_s"].keys() == {"0", "2,000"}
    assert "shards against zip" in capsys.readouterr().out
