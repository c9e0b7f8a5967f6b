"""Pictures and films."""

import io

import numpy
import pytest
import torch
from PIL import Image

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.runtime.media import grid, mp4, png, to_uint8


def test_values_map_to_bytes():
    image = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]).expand(3, 1, 5)
    assert to_uint8(image)[0, 0].tolist() == [0, 0, 128, 255, 255]


def test_a_grid_is_row_by_row_and_filled_with_black():
    images = torch.arange(1, 4, dtype=torch.uint8)[:, None, None, None].expand(3, 3, 2, 2)
    assert grid(images, 2)[0, ::2, ::2].tolist() == [[1, 2], [3, 0]]
    assert grid(images, 2, scale=3).shape == (3, 12, 12)


def test_png_round_trip():
    image = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    decoded = Image.open(io.BytesIO(png(image)))
    assert decoded.format == "PNG"
    assert torch.equal(torch.from_numpy(numpy.array(decoded)).permute(2, 0, 1), image)


def test_a_film_plays_everywhere(tmp_path):
    import imageio.v3 as imageio

    frames = [torch.full((3, 32, 48), value, dtype=torch.uint8) for value in (10, 100, 200)]
    path = tmp_path / "film.mp4"
    path.write_bytes(mp4(frames))
    decoded, facts = imageio.imread(path), imageio.immeta(path)
    assert decoded.shape == (3, 32, 48, 3) and abs(int(decoded[1].mean()) - 100) < 6
    assert facts["codec"] == "h264" and "yuv420p" in facts["pix_fmt"]


def test_films_that_cannot_be_are_refused():
    for frames in ([], [torch.zeros(3, 31, 32, dtype=torch.uint8)]):
        with pytest.raises(StyleAvatarError, match="even height and width"):
            mp4(frames)
