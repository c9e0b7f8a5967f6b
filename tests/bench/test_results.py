"""The results page says what its sources say, and the curves are those of the logs."""

import json
import xml.etree.ElementTree as xml
from pathlib import Path

import pytest

from styleavatar3d.assets import assets
from styleavatar3d.bench import curves, results
from styleavatar3d.errors import StyleAvatarError

EVALUATION = {
    "seed": 1, "seconds": 130, "sizes": {"pairs": 500},
    "judge": {"yaw_median": 2.04, "attributes": 0.961, "hair": 0.97},
    "diffusion": {
        "yaw": {"median": 13.0, "90th percentile": 40.0},
        "view": {"share": 0.93, "chance": 0.25},
        "hair": {"share": 0.81, "chance": 0.083},
    },
    "avatars": {"verdicts": {"hair": {"same verdict": 0.9}}},
}  # fmt: skip
TRAINING = {"seed": 0, "judge": {"images": 300000, "cpu_seconds": 840, "yaw_median": 2.04}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    lines = [{"step": 100 * i, "time": 1.0, "loss": 4 - i / 100, "rate": 50.0} for i in range(1, 301)]
    (tmp_path / "run" / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    curves.collect({"judge": str(tmp_path / "run")}, tmp_path / "curves.json")
    (tmp_path / "evaluation.json").write_text(json.dumps(EVALUATION))
    (tmp_path / "training.json").write_text(json.dumps(TRAINING))
    return tmp_path


def test_the_page_says_what_was_asked_and_what_came_out(folder: Path) -> None:
    made = results.write(folder, folder / "docs" / "results.md")
    page = Path(made["page"]).read_text()
    assert "| judge on held-out renders: median yaw error | **2.04 degrees** | ≤ 3 degrees | ≤ 3 degrees |" in page
    assert "| diffusion: median yaw error | 13 degrees (short of it) | ≤ 12 degrees | ≤ 6 degrees |" in page
    assert "| diffusion: four-way view | **93 %** | ≥ 90 % | ≥ 97 % |" in page
    assert "| generator: median yaw error | not measured |" in page
    assert "| hair | 97 | 81 | 8 | 90 |" in page
    assert "| judge | 300,000 | 14.0 | yaw_median 2.04 |" in page
    assert (folder / "docs" / "pictures" / "curves.svg").is_file() and "pictures/curves.svg" in page


def test_a_picture_kept_beside_its_table_is_shown(folder: Path) -> None:
    (folder / "tables").mkdir()
    told = {"size": 32, "kimg": 30, "seeds": 2, "summary": [{"variant": "no label", "FID": 0.3, "FID, spread": 0.02}]}
    (folder / "tables" / "gan-ablation.json").write_text(json.dumps(told))
    assert "gan-ablation.png" not in Path(results.write(folder, folder / "docs" / "results.md")["page"]).read_text()
    (folder / "tables" / "gan-ablation.png").write_bytes(b"picture")
    page = Path(results.write(folder, folder / "docs" / "results.md")["page"]).read_text()
    assert (
        "](pictures/gan-ablation.png)" in page and "| variant | FID |" in page and "| no label | 0.3 ± 0.02 |" in page
    )
    assert (folder / "docs" / "pictures" / "gan-ablation.png").read_bytes() == b"picture"


def test_tables_of_bench_become_sections(folder: Path) -> None:
    (folder / "tables").mkdir()
    rows = [{"row": "renders", "faces on backs": 0.0}, {"row": "depth, view words", "faces on backs": None}]
    claims = [{"claim": "hybrid: better", "gain": 0.1, "verdict": "holds"}]
    told = {"count": 1000, "behind": 250, "seed": 0, "rows": rows, "claims": claims}
    (folder / "tables" / "ablation.json").write_text(json.dumps(told))
    page = Path(results.write(folder, folder / "results.md")["page"]).read_text()
    assert "1000 pictures a row of the same held-out figures, 250 of them from behind,\nseed 0" in page
    assert "| row | faces on backs |" in page and "| renders | 0.0 |" in page and "| depth, view words |  |" in page
    assert "| hybrid: better | 0.1 | holds |" in page
    (folder / "tables" / "ablation.json").write_text('{"count": 3}')
    with pytest.raises(StyleAvatarError, match=r"ablation.json is no table of bench"):
        results.write(folder, folder / "results.md")


def test_a_missing_source_is_named(folder: Path) -> None:
    (folder / "evaluation.json").unlink()
    with pytest.raises(StyleAvatarError, match=r"source of the results page is missing[\s\S]*evaluation\.json"):
        results.write(folder, folder / "results.md")


def test_curves_are_thinned_to_means(folder: Path) -> None:
    thinned = json.loads((folder / "curves.json").read_text())["judge"]
    assert set(thinned) == {"images", "loss"} and len(thinned["images"]) == len(thinned["loss"]) == curves.POINTS
    assert thinned["images"][-1] == 30000 and thinned["loss"] == sorted(thinned["loss"], reverse=True)
    assert thinned["loss"][-1] == pytest.approx(1.03, abs=0.02)


def test_values_that_come_only_at_the_end_are_no_curve() -> None:
    lines = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}, {"step": 2, "retrieval": 0.4}]
    assert curves.thin(lines) == {"images": [1, 2], "loss": [2.0, 1.0]}


def test_the_drawing_is_well_formed_and_has_a_line_for_each_value() -> None:
    svg = xml.fromstring(curves.draw({"a": {"images": [0, 10], "x": [1.0, 1.0], "y": [3.0, 2.0]}}))
    lines = svg.findall(".//{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 2
    start, end = ([float(number) for number in point.split(",")] for point in lines[1].attrib["points"].split())
    assert start[1] < end[1] and start[0] < end[0]


def test_curves_of_a_stage_that_is_trained_anew_leave_the_others(folder: Path) -> None:
    before = json.loads((folder / "curves.json").read_text())
    curves.collect({"clip": str(folder / "run")}, folder / "curves.json")
    assert json.loads((folder / "curves.json").read_text()) == before | {"clip": before["judge"]}


def test_a_run_without_a_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(StyleAvatarError, match="no log"):
        curves.collect({"judge": str(tmp_path)}, tmp_path / "curves.json")


def test_the_shipped_page_is_up_to_date(tmp_path: Path) -> None:
    data = assets() / "data" / "miniature"
    made = results.write(data, tmp_path / "results.md")
    assert Path(made["page"]).read_text() == (assets() / "docs" / "results.md").read_text()
    assert Path(made["curves"]).read_text() == (assets() / "docs" / "pictures" / "curves.svg").read_text()
    assert (data / "curves.json").stat().st_size <= 60_000
