"""Other layouts: there and back nothing is lost; what anybody may have made is bounded, named and never unpacked."""

import io
import json
import math
import zipfile
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from shards.samples import make_dataset

from styleavatar3d.camera.cameras import Camera
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.shards.convert import convert
from styleavatar3d.shards.loader import ShardDataset
from styleavatar3d.shards.manifest import manifest_hash, read_manifest
from styleavatar3d.shards.tools import validate

SIZE = 24


def picture(number: int, kind: str = "PNG", mode: str = "RGB", size: int = SIZE) -> bytes:
    draw = numpy.random.default_rng(number)
    image = Image.fromarray(draw.integers(0, 256, (size, size, 4), dtype=numpy.uint8)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def label(number: int) -> list[float]:
    return Camera.orbit(number * 47 % 360 - 180, number % 5 * 7 - 14).label().tolist()


def files(count: int = 9, kind: str = "PNG") -> dict[str, bytes]:
    names = [f"{i % 2:05d}/{'zyxwvutsr'[i % 9]}{i}.{kind.lower()}" for i in range(count)]
    labels = {"labels": [[name, label(i)] for i, name in enumerate(names)]}
    return {name: picture(i, kind) for i, name in enumerate(names)} | {"dataset.json": json.dumps(labels).encode()}


def zipped(path: Path, content: dict[str, bytes]) -> str:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return str(path)


def unzipped(path: Path) -> tuple[list, dict[str, numpy.ndarray]]:
    """Labels and pixels as a reader of EG3D's layout finds them: every picture file, by name."""
    with zipfile.ZipFile(path) as archive:
        labels = json.loads(archive.read("dataset.json"))["labels"]
        names = [name for name in archive.namelist() if Path(name).suffix in Image.registered_extensions()]
        pixels = {name: numpy.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in names}
    return labels, pixels


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_an_eg3d_zip_comes_back_with_equal_labels_and_pixels(tmp_path: Path, kind: str):
    source = zipped(tmp_path / "eg3d.zip", files(kind=kind))
    report = convert(source, str(tmp_path / "set"), licence="CC0-1.0", shard_size=4)
    assert report["pictures"] == 9 and report["resolution"] == SIZE
    assert validate(str(tmp_path / "set")) == {"sound": True, "shards": 3, "pictures": 9, "problems": []}
    convert(str(tmp_path / "set"), str(tmp_path / "again.zip"))
    (labels, pixels), (before, old) = unzipped(tmp_path / "again.zip"), unzipped(tmp_path / "eg3d.zip")
    assert labels == before and pixels.keys() == old.keys()
    assert all((pixels[name] == old[name]).all() for name in old)
    assert ShardDataset(tmp_path / "set")[3]["label"].tolist() == torch.tensor(label(3)).tolist()


@pytest.mark.parametrize("out", ["eg3d.zip", "eg3d"])
def test_shards_come_back_to_the_byte(tmp_path: Path, out: str):
    """Masks, guidance, words, verdicts and rejected pictures too."""
    storage = make_dataset(str(tmp_path / "set"))
    report = convert(storage.url, str(tmp_path / out))
    assert report == {"out": str(tmp_path / out), "pictures": 18, "rejected": 2}
    assert validate(str(tmp_path / out))["problems"] == []
    back = convert(str(tmp_path / out), str(tmp_path / "back"))
    assert back["hash"] == manifest_hash(read_manifest(storage))
    if out.endswith("zip"):
        assert len(unzipped(tmp_path / out)[1]) == 18, "only accepted pictures are seen by other readers"


def test_the_same_conversion_is_the_same_bytes(tmp_path: Path):
    make_dataset(str(tmp_path / "set"))
    for name in ("a.zip", "b.zip"):
        convert(str(tmp_path / "set"), str(tmp_path / name))
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_labels_mended_beside_their_records_are_refused_until_the_records_go(tmp_path: Path):
    make_dataset(str(tmp_path / "set"))
    convert(str(tmp_path / "set"), str(tmp_path / "eg3d"))
    path = tmp_path / "eg3d/dataset.json"
    tree = json.loads(path.read_text())
    tree["labels"][5][1] = label(3)
    path.write_text(json.dumps(tree))
    with pytest.raises(StyleAvatarError, match="another label"):
        convert(str(tmp_path / "eg3d"), str(tmp_path / "back"))
    assert not (tmp_path / "back").exists()


def test_a_table_for_pandas(tmp_path: Path):
    import pyarrow.parquet

    make_dataset(str(tmp_path / "set"))
    convert(str(tmp_path / "set"), str(tmp_path / "table.parquet"))
    rows = pyarrow.parquet.read_table(tmp_path / "table.parquet").to_pylist()
    assert [row["key"] for row in rows] == [f"{i:09d}" for i in range(20)]
    assert rows[3]["verdict"] == "rejected" and rows[7]["attribute.hair"] == "bob" and len(rows[0]["camera"]) == 25


def test_transforms_of_nerfstudio(tmp_path: Path):
    turn = numpy.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])  # z up, face to -y
    frames = []
    for i in range(9):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / f"images/{i}.png").write_bytes(picture(i))
        matrix = turn @ numpy.array(label(i)[:16]).reshape(4, 4) @ numpy.diag([1.0, -1, -1, 1])
        frames.append({"file_path": f"./images/{i}.png", "transform_matrix": matrix.tolist()})
    tree = {"w": SIZE, "h": SIZE, "fl_x": 4.2647 * SIZE, "fl_y": 4.2647 * SIZE, "cx": SIZE / 2, "cy": SIZE / 2}
    (tmp_path / "transforms.json").write_text(json.dumps(tree | {"frames": frames}))
    report = convert(str(tmp_path), str(tmp_path / "set"), licence="own work")
    assert report["up"] == "z" and report["pictures"] == 9
    for i, sample in enumerate(ShardDataset(tmp_path / "set")):
        assert torch.allclose(sample["label"], torch.tensor(label(i)), atol=1e-5)
    for frame in frames:
        for row in frame["transform_matrix"][:3]:
            row[3] = row[3] * 7 + 9
    (tmp_path / "transforms.json").write_text(json.dumps(tree | {"frames": frames}))
    with pytest.raises(StyleAvatarError, match="pivot"):
        convert(str(tmp_path / "transforms.json"), str(tmp_path / "no"), licence="own work")
    report = convert(str(tmp_path / "transforms.json"), str(tmp_path / "fitted"), licence="own work", fit=True)
    assert report["scaled_by"] == pytest.approx(1 / 7, rel=1e-3)
    assert torch.allclose(ShardDataset(tmp_path / "fitted")[4]["label"], torch.tensor(label(4)), atol=1e-3)
    (tmp_path / "transforms.json").write_text(json.dumps({"camera_angle_x": math.degrees(0.23), "frames": frames}))
    with pytest.raises(StyleAvatarError, match="degrees"):
        convert(str(tmp_path / "transforms.json"), str(tmp_path / "no"), licence="own work")


def broken(change: str) -> dict[str, bytes]:
    content = files()
    tree = json.loads(content["dataset.json"])
    labels = tree["labels"]
    match change:
        case "no labels":
            tree["labels"] = None
        case "twice":
            labels.append(labels[0])
        case "stray":
            content["00000/stray.png"] = picture(99)
        case "gone":
            del content[labels[2][0]]
        case "size":
            content[labels[2][0]] = picture(2, size=40)
        case "flat":
            content[labels[2][0]] = picture(2)[:300]
        case "escape":
            labels[2][0] = "../../etc/passwd"
        case "opengl":
            for entry in labels:
                m = numpy.array(entry[1][:16]).reshape(4, 4) @ numpy.diag([1.0, -1, -1, 1])
                entry[1][:16] = m.ravel().tolist()
        case "short":
            labels[2][1] = labels[2][1][:16]
        case "nested":
            return content | {"dataset.json": b'{"labels":' + b"[" * 100_000}
        case "bomb":
            content[labels[2][0]] = b"\0" * (64 << 20)
    return content | {"dataset.json": json.dumps(tree).encode()}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ("no labels", "holds no labels"), ("twice", "duplicated key"), ("stray", "1 pictures have no label"),
        ("gone", "no such file"), ("size", "wrong sizes"), ("flat", "cannot be read"), ("escape", "leaves its archive"),
        ("opengl", "OpenGL"), ("short", "wrong count"), ("nested", "not JSON"), ("bomb", "no picture"),
    ],
)  # fmt: skip
def test_broken_archives_are_named_and_nothing_is_written(tmp_path: Path, change: str, word: str):
    source = zipped(tmp_path / "eg3d.zip", broken(change))
    with pytest.raises(StyleAvatarError, match=word):
        convert(source, str(tmp_path / "set"), licence="CC0-1.0")
    with pytest.raises(StyleAvatarError, match=word):
        convert(source, str(tmp_path / "set"), licence="CC0-1.0", fit=True)
    assert not (tmp_path / "set").exists()
    report = validate(source)
    assert not report["sound"] and any(word in problem for problem in report["problems"])


def test_zips_that_leave_or_lie_are_refused(tmp_path: Path):
    for name in ("../out.png", "/etc/out.png", "a\\..\\b.png", "c:/x.png"):
        with pytest.raises(StyleAvatarError, match="leaves its archive"):
            convert(zipped(tmp_path / "bad.zip", files() | {name: picture(1)}), str(tmp_path / "set"), licence="x")
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04 no zip at all")
    with pytest.raises(StyleAvatarError, match="cannot be read"):
        convert(str(tmp_path / "bad.zip"), str(tmp_path / "set"), licence="x")
    whole = Path(zipped(tmp_path / "good.zip", files())).read_bytes()
    draw = numpy.random.default_rng(0)
    for _ in range(60):
        data = bytearray(whole)
        for at in draw.integers(0, len(data), 4):
            data[at] ^= 1 << int(draw.integers(8))
        (tmp_path / "bad.zip").write_bytes(data[: int(draw.integers(len(data) // 2, len(data) + 1))])
        report = validate(str(tmp_path / "bad.zip"))
        assert report["sound"] in (True, False)


def test_alpha_becomes_the_mask_and_pixels_stay(tmp_path: Path):
    content = files()
    name = json.loads(content["dataset.json"])["labels"][0][0]
    content[name] = picture(5, mode="RGBA")
    convert(zipped(tmp_path / "eg3d.zip", content), str(tmp_path / "set"), licence="x")
    sample, pixels = ShardDataset(tmp_path / "set")[0], numpy.asarray(Image.open(io.BytesIO(content[name])))
    assert (sample["image"].permute(1, 2, 0).numpy() == pixels[..., :3]).all()
    assert (sample["mask"][0].numpy() == pixels[..., 3]).all()
