"""A folder of pictures and a table become shards; all that is wrong with them is said before a byte is written."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from styleavatar3d.camera.cameras import Camera
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.shards.folder import import_folder
from styleavatar3d.shards.loader import ShardDataset
from styleavatar3d.shards.manifest import manifest_hash, read_manifest
from styleavatar3d.shards.pictures import GREY
from styleavatar3d.shards.tools import inspect, preview, validate

SIZE = 16
RED = (200, 30, 10)


def draw(path: Path, tint: int, mode: str = "RGB", size: tuple[int, int] = (40, 40)) -> Path:
    """A red disc with a tint that makes it another picture, transparent around where the mode allows."""
    y, x = numpy.mgrid[: size[1], : size[0]]
    disc = (x - size[0] / 2) ** 2 + (y - size[1] / 2) ** 2 < (min(size) / 3) ** 2
    pixels = numpy.zeros((size[1], size[0], 4), numpy.uint8)
    pixels[disc] = (*RED, 255)
    pixels[0, 0] = (tint % 256, tint // 256, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def table(path: Path, rows: Sequence[Sequence[object]], header: str = "file,yaw,pitch,licence") -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header.split(","), *rows])
    return path


def damaged_exif() -> bytes:
    """A turn of the picture, beside a text under a number's name: it cannot be written back."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker" * 5
    return exif.tobytes().replace(b"\x01\x0f", b"\x01\x53")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six transparent pictures, a.png to f.png."""
    for number, name in enumerate("abcdef"):
        draw(tmp_path / "pictures" / f"{name}.png", number, "RGBA")
    return tmp_path / "pictures"


def rows(names: str = "abcdef") -> list[list[object]]:
    return [[f"{name}.png", -180 + 60 * i, 5 * i, "CC0-1.0"] for i, name in enumerate(names)]


def refused(folder: Path, content: Path, *parts: str, **settings) -> str:
    out = folder.parent / "refused"
    with pytest.raises(StyleAvatarError) as caught:
        import_folder(folder, content, out, **{"size": SIZE, **settings})
    for part in parts:
        assert part in str(caught.value)
    assert not out.exists(), "nothing may be written"
    return str(caught.value)


def test_pictures_masks_cameras_and_words_arrive(folder: Path, tmp_path: Path):
    header = "Pitch,FILE,yaw,Licence,prompt,style,kind,attributes.Hair"
    stated = [[p, f, y, li, f"head {f}", "photo", "human", "bob"] for f, y, p, li in rows()]
    report = import_folder(folder, table(tmp_path / "t.csv", stated, header), tmp_path / "set", SIZE, shard_size=4)
    assert report["pictures"] == 6 and report["masks"] == {"alpha": 6} and "note" not in report
    dataset = ShardDataset(tmp_path / "set")
    for sample, (name, yaw, pitch, licence) in zip(dataset, rows(), strict=True):
        record = sample["json"]
        assert (record["yaw"], record["pitch"], record["prompt"]) == (yaw, pitch, f"head {name}")
        assert torch.equal(sample["label"], Camera.orbit(yaw, pitch).label())
        assert record["attributes"] == {"hair": "bob"} and record["figure"]["licence"] == licence
        assert sample["image"][:, 8, 8].tolist() == list(RED) and sample["mask"][0, 8, 8] == 255
        assert sample["image"][:, 0, 0].tolist() == [GREY] * 3 and sample["mask"][0, 0, 0] == 0
    assert validate(str(tmp_path / "set"))["sound"]
    assert inspect(str(tmp_path / "set"))["style"] == {"photo": 6}
    assert preview(str(tmp_path / "set"), str(tmp_path / "sheet.png"))["pictures"] == 6


def test_colours_at_the_edge_of_a_mask_are_those_of_the_head(folder: Path, tmp_path: Path):
    import_folder(folder, table(tmp_path / "t.csv", rows()), tmp_path / "set", SIZE)
    sample = ShardDataset(tmp_path / "set")[0]
    edge = (sample["mask"][0] > 40) & (sample["mask"][0] < 215)
    assert edge.any() and (sample["image"][:, edge].T - torch.tensor(RED)).abs().max() <= 6


def test_the_same_command_goes_on_and_gives_the_same_bytes(folder: Path, tmp_path: Path):
    content = table(tmp_path / "t.csv", rows())
    whole = import_folder(folder, content, tmp_path / "whole", SIZE, shard_size=2)
    import_folder(folder, content, tmp_path / "part", SIZE, shard_size=2)
    (tmp_path / "part/manifest/000001.json").unlink()
    again = import_folder(folder, content, tmp_path / "part", SIZE, shard_size=2)
    assert again["hash"] == whole["hash"]
    draw(folder / "c.png", 99, "RGBA")
    with pytest.raises(StyleAvatarError, match="holds another data set"):
        import_folder(folder, content, tmp_path / "part", SIZE, shard_size=2)


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_a_stopped_import_is_resumed(tmp_path: Path, stop: signal.Signals):
    folder = tmp_path / "pictures"
    content = table(tmp_path / "t.csv", [[f"{i}.png", i % 90, 0, "CC0-1.0"] for i in range(600)])
    for i in range(600):
        draw(folder / f"{i}.png", i, "RGBA", (16, 16))
    words = ["dataset", "import", str(folder), str(content), "--size", str(SIZE), "--out"]
    command = [sys.executable, "-m", "styleavatar3d", *words, str(tmp_path / "stopped")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    first = tmp_path / "stopped/manifest/000000.json"
    while not first.exists() and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(stop)
    message = process.communicate()[1]
    assert process.returncode in ((-9,) if stop == signal.SIGKILL else (3, 0)) and "Traceback" not in message, message
    before = read_manifest(ShardDataset(tmp_path / "stopped").storage)
    assert subprocess.run(command, capture_output=True).returncode == 0
    entries = read_manifest(ShardDataset(tmp_path / "stopped").storage)
    assert entries[: len(before)] == before and sum(entry.count for entry in entries) == 600
    assert manifest_hash(entries) == import_folder(folder, content, tmp_path / "whole", SIZE)["hash"]


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbffile,yaw,pitch\na.png,12.5,0\n",
        b"File; YAW ;Pitch\r\n\r\n a.png ;12,5;0\r\n",
        b"yaw\tpitch\tfile\n12.5\t0\ta.png",
        b'\n"file","yaw","pitch"\n"a.png","12.5","0"\n\n',
    ],
)
def test_tables_as_spreadsheets_write_them(folder: Path, tmp_path: Path, text: bytes):
    (tmp_path / "t.csv").write_bytes(text)
    import_folder(folder, tmp_path / "t.csv", tmp_path / "set", SIZE, licence="own work")
    assert ShardDataset(tmp_path / "set")[0]["json"]["yaw"] == 12.5
    assert ShardDataset(tmp_path / "set").plan.licences == ["own work"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (b"", ["lacks the columns file, yaw, pitch", "no header"]),
        (b"file,yaw,pitch\n", ["a header and no rows"]),
        (b"a.png,0,0\nb.png,1,0\n", ["lacks the columns", "in the first row"]),
        (b"file|yaw|pitch\na.png|0|0\n", ["lacks the columns", "separated by commas"]),
        (b"file,yaw,pitch,promt\na.png,0,0,x\n", ["unknown column 'promt'", "did you mean 'prompt'?"]),
        (b"file,yaw,pitch,hair\na.png,0,0,bob\n", ["unknown column 'hair'", "call it attributes.hair"]),
        (b"file,yaw,pitch,Yaw\na.png,0,0,1\n", ["has the column 'yaw' twice"]),
        ("file,yaw,pitch\na.png,0,0\n".encode("utf-16"), ["is not UTF-8", "CSV UTF-8"]),
        (b'file,yaw,pitch\n"a.png,0,0\n', ["is no CSV"]),
        (b"file,yaw,pitch\na.png,0\n", ["row 2: the row has another number of cells", "2: a.png, 0"]),
    ],
)
def test_what_is_no_such_table(folder: Path, tmp_path: Path, text: bytes, parts: list[str]):
    (tmp_path / "t.csv").write_bytes(text)
    refused(folder, tmp_path / "t.csv", *parts, licence="own work")


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        (["a.png", "nan", 0, "x"], ["yaw is out of range", "nan", "[-180, 180)"]),
        (["a.png", "-inf", 0, "x"], ["yaw is out of range"]),
        (["a.png", 270, 0, "x"], ["yaw is out of range", "the same direction is -90"]),
        (["a.png", 180, 0, "x"], ["the same direction is -180"]),
        (["a.png", "", 0, "x"], ["yaw is no number", "an empty cell"]),
        (["a.png", 0, "12°", "x"], ["pitch is no number", "12°"]),
        (["a.png", 0, 90, "x"], ["pitch is out of range", "[-89, 89]"]),
        (["a.png", 0, 0, ""], ["pictures need a licence", "--licence"]),
        (["a.png", 0, 0, "two\nlines"], ["no short line"]),
        (["nothing.png", 0, 0, "x"], ["there is no such file", "nothing.png"]),
        (["sub\\a.png", 0, 0, "x"], ["there is no such file", "write / between folders"]),
        (["A.PNG", 0, 0, "x"], ["there is no such file", "upper and lower case"]),
        (["", 0, 0, "x"], ["a file has no name"]),
        (["a\0.png", 0, 0, "x"], ["a file has no name"]),
        ([".", 0, 0, "x"], ["there is no such file"]),
        (["../secret.png", 0, 0, "x"], ["outside the folder"]),
        (["b.png/../../secret.png", 0, 0, "x"], ["outside the folder"]),
        (["/etc/passwd", 0, 0, "x"], ["outside the folder"]),
        (["link.png", 0, 0, "x"], ["outside the folder"]),
        (["inside/secret.png", 0, 0, "x"], ["outside the folder"]),
        (["circle.png", 0, 0, "x"], ["a file cannot be read"]),
        (["x" * 5000, 0, 0, "x"], ["a file cannot be read"]),
        (["exif.jpg", 0, 0, "x"], ["this picture cannot be read", "exif.jpg"]),
        (["pipe.png", 0, 0, "x"], ["there is no such file"]),
        (["copy.png", 0, 0, "x"], ["the same picture as in row 3"]),
        (["b.png", 5, 0, "x"], ["the same picture as in row 3"]),
        (["text.png", 0, 0, "x"], ["this file is no picture"]),
        (["empty.png", 0, 0, "x"], ["this file is no picture"]),
        (["torn.png", 0, 0, "x"], ["this picture cannot be read"]),
        (["bomb.png", 0, 0, "x"], ["this picture is too large", "12000 x 12000"]),
        (["small.png", 0, 0, "x"], ["the picture is too small", "8 x 8", "at least 16 x 16"]),
        (["film.gif", 0, 0, "x"], ["a film is no picture"]),
        (["clear.png", 0, 0, "x"], ["the mask shows nothing", "transparent everywhere"]),
    ],
)
def test_hostile_rows(folder: Path, tmp_path: Path, row: list[object], parts: list[str]):
    secret = draw(tmp_path / "secret.png", 77)
    (folder / "link.png").symlink_to(secret)
    (folder / "inside").symlink_to(tmp_path)
    (folder / "circle.png").symlink_to(folder / "circle.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "copy.png").write_bytes((folder / "b.png").read_bytes())
    Image.new("RGB", (20, 20)).save(folder / "exif.jpg", exif=damaged_exif())
    (folder / "text.png").write_text("not a picture")
    (folder / "empty.png").touch()
    (folder / "torn.png").write_bytes((folder / "c.png").read_bytes()[:-60])
    Image.new("1", (12_000, 12_000)).save(folder / "bomb.png")
    Image.new("RGB", (8, 8)).save(folder / "small.png")
    frames = [Image.new("RGB", (20, 20), (i, 0, 0)) for i in (0, 200)]
    frames[0].save(folder / "film.gif", save_all=True, append_images=frames[1:])
    Image.new("RGBA", (20, 20)).save(folder / "clear.png")
    content = table(tmp_path / "t.csv", [["d.png", 0, 0, "x"], ["b.png", 0, 0, "x"], row])
    message = refused(folder, content, "1 of 3 rows of t.csv cannot be used", "row 4: ", *parts)
    assert message.count("row 4: ") == 1


def test_every_bad_cell_of_every_row_is_shown_up_to_twenty(folder: Path, tmp_path: Path):
    bad = [[f"none-{i}.png", 500, "x", ""] for i in range(9)]
    message = refused(folder, table(tmp_path / "t.csv", [*rows(), *bad]), "9 of 15 rows", "... and 16 more problems")
    assert message.count("yaw is out of range") == 5 and message.count("there is no such file") == 5
    assert message.index("row 8:") < message.index("row 12:") and "row 13:" not in message


def test_masks_in_files(folder: Path, tmp_path: Path):
    masks = tmp_path / "masks"
    for name in "abcdef":
        half = Image.new("L", (40, 40))
        half.paste(255, (0, 0, 20, 40))
        draw(folder / f"{name}.png", ord(name))
        masks.mkdir(exist_ok=True)
        half.save(masks / f"{name}.png")
    report = import_folder(folder, table(tmp_path / "t.csv", rows()), tmp_path / "set", SIZE, mask=str(masks))
    sample = ShardDataset(tmp_path / "set")[2]
    assert report["masks"] == {"file": 6} and "note" not in report
    assert (sample["mask"][0, :, :8] == 255).all() and (sample["mask"][0, :, 8:] == 0).all()
    assert (sample["image"][:, :, 8:] == GREY).all()
    (masks / "c.png").unlink()
    half.resize((20, 20)).save(masks / "d.png")
    Image.new("L", (40, 40), 1).save(masks / "e.png")
    refused(folder, tmp_path / "t.csv", "3 of 6 rows", "row 4: there is no such file", "row 5: a mask has another size",
            "row 6: the mask shows nothing", mask=str(masks))  # fmt: skip
    refused(folder, tmp_path / "t.csv", "no such folder of masks", mask=str(tmp_path / "nowhere"))


def test_a_row_may_name_its_own_mask(folder: Path, tmp_path: Path):
    Image.new("L", (40, 40), 255).save(folder / "full.png")
    stated = [[*row, "full.png" if row[0] == "b.png" else ""] for row in rows()]
    content = table(tmp_path / "t.csv", stated, "file,yaw,pitch,licence,mask")
    assert import_folder(folder, content, tmp_path / "set", SIZE)["masks"] == {"alpha": 5, "file": 1}
    assert ShardDataset(tmp_path / "set")[1]["mask"].min() == 255


def test_without_masks_the_alpha_channel_is_full_and_the_report_says_so(folder: Path, tmp_path: Path):
    report = import_folder(folder, table(tmp_path / "t.csv", rows()), tmp_path / "set", SIZE, mask="none")
    assert report["masks"] == {"none": 6} and "alpha channel is full" in report["note"]
    sample = ShardDataset(tmp_path / "set")[0]
    assert (sample["mask"] == 255).all() and sample["image"][:, 0, 0].tolist() == [GREY] * 3


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "I;16"])
def test_modes_of_colour(tmp_path: Path, mode: str):
    name = "a.tiff" if mode in ("CMYK", "PA") else "a.png"
    path = draw(tmp_path / "pictures" / name, 0, "RGBA" if mode == "PA" else "L" if mode == "I;16" else mode)
    if mode == "I;16":
        Image.fromarray(numpy.asarray(Image.open(path)).astype(numpy.uint16) * 257).save(path)
    import_folder(tmp_path / "pictures", table(tmp_path / "t.csv", [[name, 0, 0, "x"]]), tmp_path / "set", SIZE)
    inner = ShardDataset(tmp_path / "set")[0]["image"][:, 8, 8].float()
    assert inner.mean() > 60 or mode == "1", inner


def test_pictures_are_turned_upright_and_cropped_to_their_centred_square(tmp_path: Path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    pixels = numpy.zeros((60, 40, 3), numpy.uint8)  # upright: red, green square of 40, blue
    pixels[:10], pixels[10:50], pixels[50:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    pixels[10:20, 10:30] = (255, 255, 255)  # white at the top of the square
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    Image.fromarray(numpy.rot90(pixels).copy()).save(folder / "turned.jpg", exif=exif, quality=95)
    import_folder(folder, table(tmp_path / "t.csv", [["turned.jpg", 0, 0, "x"]]), tmp_path / "set", SIZE)
    image = ShardDataset(tmp_path / "set")[0]["image"].int()
    assert image[:, 1, 8].min() > 180, "white is above"
    assert image[1, 12:].min() > 180 and image[0, 12:].max() < 90 and image[2, 12:].max() < 90, "green alone is below"


def test_cameras_of_their_own(folder: Path, tmp_path: Path):
    content = table(tmp_path / "t.csv", [["a.png", 30, 10, "x", 3.5, ""]], "file,yaw,pitch,licence,radius,focal")
    import_folder(folder, content, tmp_path / "set", SIZE)
    assert torch.equal(ShardDataset(tmp_path / "set")[0]["label"], Camera.orbit(30, 10, radius=3.5).label())


def test_yaws_at_the_seam_are_valid(folder: Path, tmp_path: Path):
    content = table(tmp_path / "t.csv", [["a.png", 179.99999999999, 89, "x"], ["b.png", -180, -89, "x"]])
    import_folder(folder, content, tmp_path / "set", SIZE)
    assert validate(str(tmp_path / "set")) == {"sound": True, "shards": 1, "pictures": 2, "problems": []}


def test_sizes_and_folders_that_are_none(folder: Path, tmp_path: Path):
    content = table(tmp_path / "t.csv", rows())
    refused(folder, content, "no pictures of that size", size=0)
    refused(tmp_path / "nowhere", content, "no such folder of pictures")
    refused(folder, tmp_path / "nowhere.csv", "there is no such table")


def test_a_table_without_licences_is_one_error_and_not_one_a_row(folder: Path, tmp_path: Path):
    content = table(tmp_path / "t.csv", [row[:3] for row in rows()], "file,yaw,pitch")
    assert "row 2" not in refused(folder, content, "pictures need a licence", "--licence TEXT")


def test_s3_takes_the_shards_too(folder: Path, tmp_path: Path, s3_server: str):
    content = table(tmp_path / "t.csv", rows())
    near, far = (import_folder(folder, content, out, SIZE) for out in (tmp_path / "set", f"{s3_server}/set"))
    assert near["hash"] == far["hash"]


def test_views_are_named_as_synthesis_names_them():
    from styleavatar3d.camera.cameras import view_name
    from styleavatar3d.synthesis import prompts

    assert all(view_name(yaw / 2) == prompts.view_name(yaw / 2) for yaw in range(-721, 722))


@pytest.mark.slow
def test_forty_rendered_pictures_train_a_generator(tmp_path: Path):
    """The whole path a user goes: files and a table, the command line, a look at the data, a training."""
    from styleavatar3d.figures.dress import build_figure
    from styleavatar3d.figures.looks import Look
    from styleavatar3d.miniature.renders import render_view

    folder, listed = tmp_path / "pictures", []
    folder.mkdir()
    for number in range(40):
        yaw, pitch = float(number * 9 - 180), float(number % 5 * 5 - 10)
        view = render_view(build_figure(Look(seed=number // 8)), "clay", Camera.orbit(yaw, pitch), 96, 1)
        pixels = torch.cat([view.image, view.mask[..., None]], -1)
        Image.fromarray(pixels.numpy()).save(folder / f"{number:03d}.png")
        listed.append([f"{number:03d}.png", yaw, pitch, "CC0-1.0"])
    content, shards, run = table(tmp_path / "mine.csv", listed), tmp_path / "shards", tmp_path / "gan"
    for words in (
        ["dataset", "import", str(folder), str(content), "--out", str(shards)],
        ["dataset", "validate", str(shards)],
        ["dataset", "preview", str(shards), "--out", str(tmp_path / "sheet.png")],
        ["train", "gan", "--config", "gan/tiny", "--data.shards", str(shards), "--run.out", str(run)],
    ):
        command = [sys.executable, "-m", "styleavatar3d", *words, "--json"]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout.splitlines()[-1]).get("sound", True)
    assert "CC0-1.0" in (run / "weights/README.md").read_text() and (run / "weights/model.safetensors").exists()
