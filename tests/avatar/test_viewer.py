"""Pages that show avatars, opened in a real browser where there is one."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from styleavatar3d.avatar.mesh import mesh_of_field
from styleavatar3d.avatar.page import Card, Command, QuickstartPage, Timing, write_page
from styleavatar3d.avatar.viewer import write_viewer
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.runtime.media import mp4


@pytest.fixture(scope="module")
def red_ball(tmp_path_factory):
    def read(points):
        return torch.tensor([1.0, 0.0, 0.0]).expand(len(points), 3), 10 + 100 * (0.3 - points.norm(dim=-1))

    return mesh_of_field(read, 0.8, 24, 10.0).save(tmp_path_factory.mktemp("ball") / "ball.glb")


def outside_references(page: str) -> list[str]:
    """Elements of the page itself, not of the viewer's script, that point outside it."""
    return re.findall(r'<[^>]+(?:src|href)="(?!data:)', page.partition('<script type="module">')[0])


def test_the_viewer_is_one_file_that_loads_nothing(red_ball):
    result = write_viewer(red_ball)
    text = red_ball.with_suffix(".html").read_text()
    assert result["page"] == str(red_ball.with_suffix(".html"))
    assert not outside_references(text)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_browser_shows_the_model(red_ball, tmp_path):
    if not shutil.which("chromium"):
        pytest.skip("needs chromium")
    write_viewer(red_ball, tmp_path / "ball.html")
    for patience in (15, 60, 180):  # seconds of the browser's own time; a busy machine needs more of it
        red, green, blue = np.asarray(screenshot(tmp_path / "ball.html", patience)).astype(int)[120, 150]
        if red > 150 and green < 80 and blue < 80:
            return
    pytest.fail(f"the middle of the page is not red but {red, green, blue}")


def screenshot(page: Path, patience: int) -> Image.Image:
    shot = page.with_suffix(".png")
    command = [
        "chromium", "--headless", "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader", "--no-first-run", "--disable-background-networking", "--disable-quic",
        "--disable-component-update", "--disable-sync", "--window-size=300,300",
        f"--virtual-time-budget={patience * 1000}",
        f"--user-data-dir={page.parent / 'profile'}", f"--screenshot={shot}", f"file://{page}",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=180)
    return Image.open(shot).convert("RGB")


@pytest.mark.parametrize("content", [b"", b"glTF", b"GIF89a" + bytes(40)])
def test_files_that_are_no_glb(tmp_path, content):
    path = tmp_path / "model.glb"
    path.write_bytes(content)
    with pytest.raises(StyleAvatarError, match="no GLB"):
        write_viewer(path)
    assert list(tmp_path.iterdir()) == [path]


def test_the_quickstart_page_holds_everything(red_ball, tmp_path):
    picture = torch.zeros(3, 8, 8, dtype=torch.uint8)
    film = tmp_path / "turn.mp4"
    film.write_bytes(mp4([torch.zeros(3, 16, 16, dtype=torch.uint8)] * 3))
    page = QuickstartPage(
        guidance=[Card([picture, Image.new("L", (8, 8)), np.zeros((8, 8, 3), np.uint8)], "a figure")],
        views=[Card([picture], text='a <prompt> with "quotes"')],
        samples=[Card([picture])],
        avatars=[Card([film], "a prompt")],
        glb=red_ball,
        timings=[Timing("Synthesis", 75.0, "ran here"), Timing("Encoder", 0.0, "shipped")],
        commands=[Command("Again", "styleavatar3d quickstart")],
        summary="All of it ran here.",
    )
    text = write_page(tmp_path / "index.html", page).read_text()
    assert not outside_references(text)
    assert "a &lt;prompt&gt; with &quot;quotes&quot;" in text and "<prompt>" not in text
    assert text.count("data:image/png") == 5 and text.count("data:video/mp4") == 1 and "1 min 15 s" in text


def test_a_missing_film_is_named(red_ball, tmp_path):
    page = QuickstartPage([], [], [], [Card(["absent.mp4"])], red_ball, [], [], "")
    with pytest.raises(StyleAvatarError, match="cannot show this"):
        write_page(tmp_path / "index.html", page)
    assert not list(tmp_path.iterdir())
