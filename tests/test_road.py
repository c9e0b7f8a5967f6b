"""The quickstart as a user runs it: one command, one page that needs nothing else."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.road import LEGS, PARTS, Road, check_weights, commands


def test_a_leg_that_goes_on_after_a_stop_adds_to_its_time(tmp_path):
    with pytest.raises(KeyboardInterrupt), Road(str(tmp_path), False).leg("synthesis", "made here"):
        raise KeyboardInterrupt
    first = json.loads((tmp_path / "road.json").read_text())["synthesis"]["seconds"]
    again = Road(str(tmp_path), False)
    again.legs["synthesis"]["seconds"] = first + 5
    with again.leg("synthesis", "made here"):
        pass
    assert again.legs["synthesis"]["seconds"] >= 5
    taken = again.legs["synthesis"]["seconds"]
    with again.leg("synthesis", "made here"):
        pass
    assert again.legs["synthesis"]["seconds"] == taken, "a leg already done keeps its time"


def test_missing_weights_are_named(tmp_path):
    road = Road(str(tmp_path), False)
    road.models = tmp_path / "nothing"
    with pytest.raises(StyleAvatarError, match="shipped weights are missing"):
        check_weights(road)


def test_from_scratch_needs_no_weights(tmp_path):
    road = Road(str(tmp_path), True)
    check_weights(road)
    assert road.models == tmp_path / "models"
    assert commands(road)["resume"].endswith("--from-scratch --configs miniature")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_from_scratch_every_stage_feeds_the_next(tmp_path):
    words = ["quickstart", "--from-scratch", "--configs", "tiny", "--out", str(tmp_path / "q"), "--json"]
    result = subprocess.run([sys.executable, "-m", "styleavatar3d", *words], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert {path.name for path in (tmp_path / "q" / "models").iterdir()} == set(PARTS)
    assert "was trained on this machine" in (tmp_path / "q" / "index.html").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_quickstart_ends_in_a_page_that_needs_nothing_else(tmp_path):
    command = [sys.executable, "-m", "styleavatar3d", "quickstart", "--out", str(tmp_path / "q"), "--json"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert all(f"] {leg}:" in result.stderr for leg in LEGS)
    said = json.loads(result.stdout.splitlines()[-1])
    page = Path(said["page"]).read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?!data:|#|javascript:)[^"]*"', page), "everything is inside the page"
    assert page.count("data:video/mp4") >= 6 and page.count("data:model/gltf-binary") == 1
    assert Path(said["view"].split()[-1]).is_file() and "quickstart" in said["resume"]
