"""The pictures of docs/cameras.md show what they say: the left ear where the left is."""

from pathlib import Path

from PIL import Image

from styleavatar3d.figures.keypoints import POINTS
from styleavatar3d.miniature.camera_sheet import YAWS, look_from, write_camera_pictures

SIZE = 48


def test_the_left_ear_is_seen_from_the_left_and_never_through_the_head():
    ear = POINTS.index("left_ear")
    views = look_from([(yaw, 0.0) for yaw in YAWS], SIZE)
    seen = {yaw for yaw, view in zip(YAWS, views, strict=True) if view.guidance.visible[ear]}
    assert {45.0, 90.0, 135.0} <= seen and not seen & {-45.0, -90.0, -135.0}
    front, left, back = (views[YAWS.index(yaw)].guidance.keypoints[ear, 0] for yaw in (0.0, 90.0, 180.0))
    assert front > SIZE / 2 + 5 and abs(left - SIZE / 2) < 3 and back < SIZE / 2 - 5


def test_four_small_pictures(tmp_path: Path):
    files = write_camera_pictures(tmp_path / "new", SIZE)
    assert sorted(file.name for file in files) == [f"cameras-{n}.png" for n in ("around", "depth", "pitch", "yaw")]
    for file in files:
        picture = Image.open(file).convert("RGB")
        assert picture.width >= 3 * SIZE and len(picture.getcolors(1 << 20) or []) > 50
