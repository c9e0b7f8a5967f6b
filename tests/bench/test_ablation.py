"""The ablation table: rows that differ by what they are named for, and claims that can fail."""

import json
from pathlib import Path

import pytest
import torch

from styleavatar3d.assets import assets
from styleavatar3d.bench import ablation
from styleavatar3d.bench.ablation import ROWS, Measured, Row, Scenes, check_claims
from styleavatar3d.errors import StyleAvatarError


def test_rows_leave_out_what_they_are_named_for():
    scenes = Scenes.draw(range(12), 0)
    full, unseen, bare = (scenes.prompts(row) for row in (Row("depth", True), Row("depth", False), ROWS[-1]))
    assert all(" view" in prompt.text for prompt in full) and any(prompt.negative for prompt in full)
    assert not any(" view" in prompt.text or prompt.negative for prompt in unseen)
    assert all(" view" in prompt.text and "hair" not in prompt.text for prompt in bare)
    assert len({row.name for row in ROWS}) == 7
    assert abs(scenes.yaw).max() > 135 and abs(scenes.yaw).min() < 45


def measured(**better: float) -> dict[str, Measured]:
    """Rows of 400 pictures; `better` improves the hybrid row with view words."""
    generator = torch.Generator().manual_seed(0)

    def one(gain: float) -> Measured:
        face = (torch.rand(400, generator=generator) < 0.4 - gain).float()
        turned = 20 * torch.rand(400, generator=generator) * (1 - gain)
        right = (torch.rand(400, generator=generator) * 0.5 + gain).clamp(max=1)
        return Measured(face, turned, right, torch.rand(400, generator=generator) * 0.1 + gain)

    return {row.name: one(better.get("hybrid", 0.0) if row == Row("hybrid", True) else 0.0) for row in ROWS}


def test_claims_hold_only_where_rows_differ():
    verdicts = [claim["verdict"] for claim in check_claims(measured(hybrid=0.3))]
    assert verdicts.count("holds") == 6
    assert {claim["verdict"] for claim in check_claims(measured(hybrid=-0.3))} >= {"does not hold"}
    assert [claim["verdict"] for claim in check_claims(measured())].count("holds") <= 1


@pytest.mark.skipif(not (assets() / "data/miniature/judge").is_dir(), reason="needs the shipped weights")
def test_the_table_has_all_rows_and_goes_on(
    diffusion: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    for name in ("judge", "clip"):
        (tmp_path / name).symlink_to(assets() / "data" / "miniature" / name)
    (tmp_path / "diffusion").symlink_to(diffusion)
    out = tmp_path / "out"
    told = ablation.run(str(out), 4, model=str(tmp_path), device="cpu")
    assert [row["row"] for row in told["rows"]] == ["renders", *(row.name for row in ROWS)]
    assert told["rows"][0]["attributes"] > 0.6 and told["rows"][-1]["attributes"] is None
    assert told["rows"][0]["yaw error, median"] < 20 < told["rows"][1]["yaw error, median"]
    assert len(told["claims"]) == 8 and "hybrid, view words" in capsys.readouterr().out
    assert json.loads((out / "ablation.json").read_text()) == told
    monkeypatch.setattr(ablation, "measure", lambda *_: pytest.fail("nothing was left to measure"))
    assert ablation.run(str(out), 4, model=str(tmp_path), device="cpu") == told
    with pytest.raises(StyleAvatarError, match="something else"):
        ablation.run(str(out), 4, seed=1, model=str(tmp_path), device="cpu")
    with pytest.raises(StyleAvatarError, match="no diversity"):
        ablation.run(str(tmp_path / "one"), 1)
