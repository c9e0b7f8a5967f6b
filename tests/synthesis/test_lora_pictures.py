"""The pictures of a LoRA: how each is turned, flattened, scaled and cropped, what is said of it, what is refused."""

import json
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from styleavatar3d.config import validate
from styleavatar3d.errors import ConfigError, StyleAvatarError
from styleavatar3d.synthesis.lora_pictures import LoraData, find_pictures, read_examples


def noise(width: int, height: int, seed: int = 0, channels: int = 3) -> Image.Image:
    draw = numpy.random.default_rng(seed)
    return Image.fromarray(draw.integers(0, 256, (height, width, channels), dtype=numpy.uint8))


def folder_of(path: Path, count: int = 4, size: tuple[int, int] = (40, 40)) -> Path:
    path.mkdir(exist_ok=True)
    for index in range(count):
        noise(*size, seed=index).save(path / f"{index}.png")
    return path


def data(pictures: Path | tuple[str, ...], **more: object) -> LoraData:
    listed = str(pictures) if isinstance(pictures, Path) else pictures
    return validate(LoraData, {"pictures": listed, "trigger": "clay", "resolution": 32, **more})


def test_the_shorter_side_is_scaled_and_the_middle_cropped(tmp_path):
    folder = folder_of(tmp_path / "pictures")
    wide = Image.new("RGB", (96, 64), (0, 0, 255))
    wide.paste((255, 0, 0), (16, 0, 80, 64))  # the square in the middle
    wide.save(folder / "wide.png")
    one = read_examples(data(folder))[-1]
    assert one.name == "wide.png" and one.original == (64, 96) and one.corner == (0, 8)
    assert one.pixels.shape == (3, 32, 32) and one.pixels[0, :, 2:-2].min() > 250 and one.pixels[2, :, 2:-2].max() < 5


def test_tall_pictures_keep_their_middle_or_their_top(tmp_path):
    folder = folder_of(tmp_path / "pictures")
    tall = Image.new("L", (32, 64), 0)
    tall.paste(255, (0, 0, 32, 32))
    tall.save(folder / "tall.png")
    middle, top = (read_examples(data(folder, crop=crop))[-1] for crop in ("middle", "top"))
    assert (middle.corner, top.corner) == ((16, 0), (0, 0))
    assert middle.pixels.float().mean() == pytest.approx(127.5) and top.pixels.min() == 255


def test_exif_turns_and_transparency_is_laid_on_the_background(tmp_path):
    folder = folder_of(tmp_path / "pictures")
    turned = Image.new("RGB", (64, 32), (255, 0, 0))
    exif = turned.getexif()
    exif[0x0112] = 6  # seen from the side: the camera stood upright
    turned.save(folder / "turned.png", exif=exif)
    Image.new("RGBA", (32, 32), (255, 255, 255, 0)).save(folder / "clear.png")
    Image.fromarray(numpy.full((32, 32), 65535, dtype=numpy.uint16)).save(folder / "deep.png")
    found = {one.name: one for one in read_examples(data(folder, background=(10, 20, 30)))}
    assert found["turned.png"].original == (64, 32)
    assert torch.equal(found["clear.png"].pixels[:, 0, 0], torch.tensor([10, 20, 30], dtype=torch.uint8))
    assert found["deep.png"].pixels.min() == 255


def test_captions_come_from_a_file_or_from_texts_beside_the_pictures(tmp_path):
    folder = folder_of(tmp_path / "pictures")
    assert [one.prompt for one in read_examples(data(folder))] == ["clay"] * 4
    (folder / "1.txt").write_text("a man, \n back view\n")
    template = "{trigger} style {caption}"
    assert [one.prompt for one in read_examples(data(folder, template=template))][:2] == [
        "clay style", "clay style a man, back view",
    ]  # fmt: skip
    said = {f"{index}.png": f"robot {index}" for index in range(4)}
    (tmp_path / "said.json").write_text(json.dumps(said))
    (tmp_path / "said.jsonl").write_text("\n".join(json.dumps({"file_name": k, "text": v}) for k, v in said.items()))
    for name in ("said.json", "said.jsonl"):
        found = read_examples(data(folder, captions=str(tmp_path / name)))
        assert [one.prompt for one in found] == [f"clay, robot {index}" for index in range(4)]


def test_folders_and_files_may_be_mixed_and_each_counts_once(tmp_path):
    folder = folder_of(tmp_path / "pictures")
    (folder / "notes.md").write_text("no picture")
    (folder / ".hidden.png").write_text("no picture")
    noise(40, 40, 9).save(tmp_path / "other.webp", lossless=True)
    found = find_pictures([str(folder), str(folder / "2.png"), str(tmp_path / "other.webp")])
    assert [path.name for path in found] == ["0.png", "1.png", "2.png", "3.png", "other.webp"]


def _three(folder: Path) -> None:
    (folder / "3.png").unlink()


def _twins(folder: Path) -> None:
    (folder / "3.png").write_bytes((folder / "1.png").read_bytes())


def _text(folder: Path) -> None:
    (folder / "4.png").write_text("not a picture")


def _cut(folder: Path) -> None:
    (folder / "4.png").write_bytes((folder / "1.png").read_bytes()[:2000])


def _small(folder: Path) -> None:
    noise(15, 40).save(folder / "4.png")


def _long(folder: Path) -> None:
    noise(200, 40).save(folder / "4.png")


def _none(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_three, "too few.*3 different of 3.*at least 4"),
        (_twins, r"too few.*3 different of 4 \(3.png = 1.png\)"),
        (_text, "4.png"),
        (_cut, "cannot be read.*4.png"),
        (_small, "too small.*15 x 40.*at least 16 px"),
        (_long, "too long.*200 x 40"),
        (_none, "no picture in this folder"),
    ],
)
def test_pictures_that_teach_nothing_are_refused(tmp_path, spoil, said):
    folder = folder_of(tmp_path / "pictures")
    spoil(folder)
    with pytest.raises(StyleAvatarError, match=f"(?s){said}"):
        read_examples(data(folder))


def test_a_missing_folder_says_how_to_name_one(tmp_path):
    with pytest.raises(StyleAvatarError, match=r"(?s)no such pictures.*--data.pictures"):
        read_examples(data(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("captions", "said"),
    [
        ({"0.png": "a", "1.png": "b", "2.png": "c"}, "no caption.*3.png"),
        ({f"{index}.png": "a" for index in range(5)}, "of no picture.*4.png"),
        ({"0.png": 7}, "no text.*0.png"),
    ],
)
def test_captions_must_be_those_of_the_pictures(tmp_path, captions, said):
    folder = folder_of(tmp_path / "pictures")
    (tmp_path / "said.yaml").write_text(json.dumps(captions))
    with pytest.raises(StyleAvatarError, match=f"(?s){said}"):
        read_examples(data(folder, captions=str(tmp_path / "said.yaml")))


@pytest.mark.parametrize("lines", ["{", '{"file": "0.png"}', "[1]", "7"])
def test_damaged_lines_of_captions_are_refused(tmp_path, lines):
    (tmp_path / "said.jsonl").write_text(lines)
    with pytest.raises(StyleAvatarError, match="captions cannot be read"):
        read_examples(data(folder_of(tmp_path / "pictures"), captions=str(tmp_path / "said.jsonl")))


@pytest.mark.parametrize("template", ["{caption}", "{trigger} {style}", "{trigger.__class__}", "{trigger} {0}"])
def test_a_template_that_cannot_be_filled_is_refused(tmp_path, template):
    with pytest.raises(ConfigError, match="template"):
        data(tmp_path, template=template)


@pytest.mark.parametrize("trigger", ["", "  ", "!,"])
def test_a_trigger_is_a_word(tmp_path, trigger):
    with pytest.raises(ConfigError, match="trigger"):
        data(tmp_path, trigger=trigger)


def test_captions_that_no_template_uses_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no {caption}"):
        data(tmp_path, template="{trigger}", captions="said.yaml")
