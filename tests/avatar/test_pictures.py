"""Whatever a user hands in as a picture."""

import numpy as np
import pytest
import torch
from PIL import Image

from styleavatar3d.avatar.pictures import read_picture
from styleavatar3d.errors import StyleAvatarError

SIZE = 16


def halves(size: tuple[int, int] = (32, 32)) -> Image.Image:
    """Red above, blue below."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[: size[1] // 2, :, 0] = 255
    pixels[size[1] // 2 :, :, 2] = 255
    return Image.fromarray(pixels)


def assert_red_above_blue(picture: torch.Tensor) -> None:
    assert picture.shape == (3, SIZE, SIZE) and picture.dtype == torch.float32
    red, blue = torch.tensor([1.0, -1, -1]), torch.tensor([-1.0, -1, 1])
    torch.testing.assert_close(picture[:, 2, 8], red, atol=0.1, rtol=0)
    torch.testing.assert_close(picture[:, -3, 8], blue, atol=0.1, rtol=0)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "YCbCr", "HSV"])
def test_modes_of_colour(mode):
    assert_red_above_blue(read_picture(halves().convert(mode), SIZE))


@pytest.mark.parametrize("mode", ["L", "LA", "1", "I", "F", "I;16"])
def test_modes_of_grey(mode):
    grey = halves().convert("L")
    image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257) if mode == "I;16" else grey.convert(mode)
    picture = read_picture(image, SIZE)
    assert picture.shape == (3, SIZE, SIZE) and (picture[0] == picture[1]).all() and picture.isfinite().all()
    assert picture[0, 2].mean() > picture[0, -3].mean()


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "gif", "bmp", "tiff"])
def test_files(tmp_path, ending):
    path = tmp_path / f"picture.{ending}"
    halves().save(path)
    assert_red_above_blue(read_picture(path, SIZE))


def test_exif_rotation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    halves().rotate(180).save(tmp_path / "turned.jpg", exif=exif)
    assert_red_above_blue(read_picture(str(tmp_path / "turned.jpg"), SIZE))


def test_arrays_and_tensors():
    pixels = np.asarray(halves())
    for source in (pixels, pixels / 255, (pixels / 255).astype(np.float32), torch.from_numpy(pixels.copy())):
        assert_red_above_blue(read_picture(source, SIZE))
    assert read_picture(pixels[:, :, :1], SIZE).shape == (3, SIZE, SIZE)


def test_transparency_and_borders_become_the_grey_of_the_background():
    clear = read_picture(Image.new("RGBA", (32, 32), (255, 0, 0, 0)), SIZE)
    wide = read_picture(halves((64, 32)), SIZE)
    assert clear.abs().max() < 0.01 and wide[:, 0].abs().max() < 0.01


@pytest.mark.parametrize(
    "source",
    [
        np.zeros((4, 4, 7), np.uint8),
        np.zeros((4, 4, 3), np.int64),
        np.full((4, 4, 3), 3.0),
        np.full((4, 4, 3), np.nan),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_arrays_that_are_none(source):
    with pytest.raises(StyleAvatarError, match="no picture"):
        read_picture(source, SIZE)


def test_files_that_are_none(tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    whole = tmp_path / "whole.png"
    Image.effect_noise((64, 64), 50).save(whole)
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:400])
    for name in ("text.png", "cut.png", "absent.png", "."):
        with pytest.raises(StyleAvatarError):
            read_picture(tmp_path / name, SIZE)


def test_huge_pictures_are_refused_before_they_are_decoded(tmp_path):
    path = tmp_path / "huge.png"
    Image.new("1", (9000, 8000)).save(path)
    with pytest.raises(StyleAvatarError, match="too large"):
        read_picture(path, SIZE)
