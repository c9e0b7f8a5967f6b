import io
import json
import sys
import time

import numpy as np
import pytest
import torch
from figures import hostile, rigs
from scipy.spatial.transform import Rotation

from styleavatar3d.camera.cameras import Camera
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.dress import build_figure
from styleavatar3d.figures.files import load_figure, part_of
from styleavatar3d.figures.fitting import Cloud, search
from styleavatar3d.figures.guidance import guide
from styleavatar3d.figures.heads import EYE, FRAME, HAIR, LASH, SHIRT, SKIN
from styleavatar3d.figures.looks import Look
from styleavatar3d.figures.model3d import FileRefused, Guard, Limits
from styleavatar3d.figures.rasterize import rasterize
from styleavatar3d.figures.skeleton import words

EYES, EARS, NOSE = 0.02, 0.03, 0.02
"""Tolerances of key points, world units: 13, 19 and 13 mm on an adult's head."""
Z_UP = Rotation.from_euler("x", 90, degrees=True).as_matrix()
BACKWARDS = Rotation.from_euler("y", 180, degrees=True).as_matrix()
HOSTILE = dict(hostile.files())


@pytest.fixture(scope="module")
def bust():
    return build_figure(Look(hair="short", seed=3))


def misses(truth, figure) -> dict[str, float]:
    """How far key points are from the true ones, in head heights of 0.36, whatever the scale chosen."""
    names = ("left_shoulder", "right_shoulder", "nose", "left_ear", "right_ear")
    used = [truth.vertices[truth.faces.unique()], figure.vertices[figure.faces.unique()]]
    (low, high), (here_low, here_high) = ((v.amin(0), v.amax(0)) for v in used)
    scale = (here_high - here_low).norm() / (high - low).norm()
    middle, here = (low + high) / 2, (here_low + here_high) / 2
    assert 0.85 < scale < 1.2, "a bare head is 0.36 units high"
    names = [name for name in truth.key_points if name in figure.key_points]
    return {
        name: float(((figure.key_points[name] - here) / scale + middle - truth.key_points[name]).norm())
        for name in names
    }


def assert_near(truth, figure, ears: float = EARS, shoulders: float = 0.005):
    missed = misses(truth, figure)
    assert max(missed["left_eye"], missed["right_eye"]) < EYES, missed
    assert max(missed["left_ear"], missed["right_ear"]) < ears, missed
    assert missed["nose"] < NOSE, missed
    assert max(missed["neck"], missed["left_shoulder"], missed["right_shoulder"]) < shoulders, missed


def load(path, data: bytes, **more):
    path.write_bytes(data)
    return load_figure(path, **more)


@pytest.mark.parametrize("scheme", ["mixamo", "sketchfab", "smpl", "unnamed"])
def test_rigs_give_their_key_points(tmp_path, bust, scheme):
    figure = load(tmp_path / "rig.glb", rigs.rigged(bust, scheme, posed=True))
    assert figure.found_by == "skeleton"
    assert_near(bust, figure)


BONES = dict(zip(("neck", "head", "left_eye", "right_eye", "left_arm", "right_arm"), (2, 3, 4, 5, 7, 10), strict=True))


@pytest.mark.parametrize("scheme", list(rigs.SCHEMES))
def test_bones_are_known_by_their_names(bust, scheme):
    from styleavatar3d.figures.gltf_model import read_gltf
    from styleavatar3d.figures.skeleton import bones

    found = bones(read_gltf(rigs.rigged(bust, scheme), Guard(scheme)))
    expected = {bone: node for bone, node in BONES.items() if "eye" not in bone or scheme not in ("smpl", "unnamed")}
    assert {bone: found.get(bone) for bone in expected} == expected


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("mixamorig:LeftForeArm", ("left", "forearm")), ("mixamorig:HeadTop_End_67", ("", "headtopend")),
        ("Bip001 R UpperArm", ("right", "upperarm")), ("head.001", ("", "head")), ("hair_L_02", ("left", "hair")),
        ("ValveBiped.Bip01_Head1", ("", "head")), ("upperarm_r", ("right", "upperarm")),
    ],
)  # fmt: skip
def test_prefixes_numbers_and_sides_are_told_from_names(name, meaning):
    assert words(name) == meaning


@pytest.mark.parametrize(("version", "turn"), [(0, BACKWARDS), (1, np.eye(3))])
def test_vrm_faces_us_whichever_way_its_version_faces(tmp_path, bust, version, turn):
    figure = load(tmp_path / "a.vrm", rigs.rigged(bust, "vroid", turn=turn, scale=0.64, vrm=version))
    assert_near(bust, figure)
    assert figure.title == "Test" and figure.licence in ("CC0", "https://vrm.dev/licenses/1.0/")


def test_a_rig_without_eyes_or_names_in_other_axes_and_units(tmp_path, bust):
    data = rigs.rigged(bust, "unreal", turn=Z_UP, scale=64.0, eyes=False, names=False)
    assert_near(bust, load(tmp_path / "rig.glb", data))


def test_hats_and_hair_do_not_mislead(tmp_path):
    worn = build_figure(Look(hair="long", hat="beanie", seed=5))
    figure = load(tmp_path / "rig.glb", rigs.rigged(worn, "rigify", eyes=False))
    assert_near(worn, figure)


@pytest.mark.parametrize(("suffix", "turn"), [("ply", np.eye(3)), ("obj", Z_UP)])
def test_heads_without_skeleton_are_found(tmp_path, bust, suffix, turn):
    vertices = bust.vertices.numpy() @ turn.T * 170
    faces = bust.faces.numpy()
    data = rigs.ply(vertices, faces) if suffix == "ply" else rigs.obj(vertices, faces).encode()
    figure = load(tmp_path / f"head.{suffix}", data)
    assert figure.found_by == "fit"
    assert_near(bust, figure, shoulders=0.09)


def test_landmarks_fix_what_they_name(tmp_path, bust):
    turn = Rotation.from_euler("xyz", [50, 70, -30], degrees=True).as_matrix()
    names = ("left_eye", "right_eye", "left_ear", "right_ear", "nose", "neck")
    points = {name: (bust.key_points[name].numpy() @ turn.T * 30 + 5).tolist() for name in names}
    (tmp_path / "points.json").write_text(json.dumps({"points": points}))
    data = rigs.ply(bust.vertices.numpy() @ turn.T * 30 + 5, bust.faces.numpy(), ">")
    figure = load(tmp_path / "turned.ply", data, landmarks=tmp_path / "points.json")
    assert figure.found_by == "landmarks"
    ears = figure.key_points["left_ear"] - figure.key_points["right_ear"]
    true_ears = bust.key_points["left_ear"] - bust.key_points["right_ear"]
    assert torch.nn.functional.cosine_similarity(ears, true_ears, dim=0) > 0.99
    eyes = figure.key_points["left_eye"] / ears.norm() - bust.key_points["left_eye"] / true_ears.norm()
    assert float(eyes.norm()) < 0.12


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"points": {"left_eye": [0, 0, 0], "right_eye": [1, 0, 0]}}', "do not fix a head"),
        ('{"points": {"left_eye": [0, 0, 0], "right_eye": [1, 0, 0], "chin": [2, 0, 0]}}', "do not fix a head"),
        ('{"points": {"tail": [0, 0, 0]}}', "unknown landmarks"),
        ('{"points": {"chin": [0, 0]}}', "not a landmarks file"),
        ('{"points": {"chin": [NaN, 0, 0]}}', "not a landmarks file"),
        ("[]", "not a landmarks file"),
    ],
)
def test_landmarks_that_make_no_sense(tmp_path, bust, text, said):
    (tmp_path / "points.json").write_text(text)
    data = rigs.ply(bust.vertices.numpy(), bust.faces.numpy())
    with pytest.raises(StyleAvatarError, match=said):
        load(tmp_path / "a.ply", data, landmarks=tmp_path / "points.json")


@pytest.mark.parametrize("seed", range(4))
def test_a_needle_has_no_head(seed: int):
    draw = torch.Generator().manual_seed(seed)
    points = torch.rand(3000, 3, generator=draw) * torch.tensor([1e-3, 1e-3, 1.0])
    normals = torch.nn.functional.normalize(torch.randn(3000, 3, generator=draw), dim=1)
    with pytest.raises(StyleAvatarError, match="no head was found in it"):
        search(Cloud(points, normals), [(torch.eye(3), 1.0)])


def test_a_figure_from_a_file_is_guided_like_any_other(tmp_path, bust):
    figure = load(tmp_path / "rig.glb", rigs.rigged(bust, "mixamo"))
    view = guide(figure, Camera.orbit(30.0, 5.0), 64)
    assert 0.2 < float((view.mask > 128).float().mean()) < 0.9
    back = guide(figure, Camera.orbit(180.0, 0.0), 64)
    seen = dict(zip(("nose", "neck"), back.visible[:2].tolist(), strict=True))
    assert seen == {"nose": False, "neck": True}


def test_textures_colour_the_figure(tmp_path, bust):
    """A red picture on a skin of tint (1, 0.5, 1): its green is 0 and its red full."""
    from PIL import Image

    data = rigs.rigged(bust, "mixamo")
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (255, 0, 0)).save(buffer, format="PNG")
    glb = rigs.Glb()
    size = int.from_bytes(data[12:16], "little")
    glb.json, glb.binary = json.loads(data[20 : 20 + size]), data[28 + size :]
    glb.json["images"] = [{"bufferView": glb.view(buffer.getvalue())}]
    glb.json["textures"] = [{"source": 0}]
    for material in glb.json["materials"]:
        material["pbrMetallicRoughness"] = {"baseColorFactor": [1, 0.5, 1, 1], "baseColorTexture": {"index": 0}}
    figure = load(tmp_path / "red.glb", glb.bytes())
    sight = rasterize(figure.vertices, figure.faces, Camera.orbit(0.0, 0.0).label()[None], 32, figure.closed)
    assert torch.allclose(figure.albedo(sight), torch.tensor([1.0, 0.0, 0.0]), atol=1e-3)


QUARTERS = {(-1, 1): (255, 0, 0), (1, 1): (0, 255, 0), (-1, -1): (0, 0, 255), (1, -1): (255, 255, 255)}
"""Colours of a picture's four quarters, by the sides of the bust that show them: right or left, upper or lower"""


def textured(bust, folder, picture: str = "face.png", line: str = "map_Kd face.png"):
    """The bust as an OBJ: hair in one colour, all else under a picture of four quarters. Its landmarks beside it."""
    from PIL import Image

    quarters = Image.new("RGB", (8, 8))
    for (side, above), color in QUARTERS.items():
        quarters.paste(color, (2 + 2 * side, 2 - 2 * above, 6 + 2 * side, 6 - 2 * above))
    quarters.save(folder / picture)
    (folder / "bust.mtl").write_text(f"newmtl hair\nKd 0.2 0.4 0.6\n\nnewmtl face\nKd 0 0.5 0\n{line}\n")
    rows = [f"v {x:.6g} {y:.6g} {z:.6g}" for x, y, z in bust.vertices.tolist()]
    rows += [f"vt {0.75 if x > 0 else 0.25} {0.75 if y > 0 else 0.25}" for x, y, _ in bust.vertices.tolist()]
    for number, (a, b, c) in enumerate((bust.faces + 1).tolist()):
        rows.append(f"usemtl {'hair' if bust.parts[number] == HAIR else 'face'}\nf {a}/{a} {b}/{b} {c}/{c}")
    points = {name: bust.key_points[name].tolist() for name in ("left_eye", "right_eye", "left_ear", "right_ear")}
    (folder / "points.json").write_text(json.dumps({"points": points}))
    data = "\n".join(["mtllib bust.mtl", *rows]).encode()
    return load(folder / "bust.obj", data, landmarks=folder / "points.json")


def seen(figure):
    """Positions and colours of what a camera before the figure sees."""
    sight = rasterize(figure.vertices, figure.faces, Camera.orbit(0.0, 0.0).label()[None], 48, figure.closed)
    return sight.interpolate(figure.vertices), figure.albedo(sight), figure.parts[sight.face]


@pytest.mark.parametrize("line", ["map_Kd face.png", "map_Kd -s 1 1 1 -clamp on face.png", "map_Kd my face.png"])
def test_pictures_that_a_material_file_names_colour_an_obj(tmp_path, bust, line):
    where, color, part = seen(textured(bust, tmp_path, "my face.png" if "my" in line else "face.png", line))
    assert torch.allclose(color[part == HAIR], torch.tensor([0.2, 0.4, 0.6]), atol=1e-3)
    for (side, above), expected in QUARTERS.items():
        here = (where[:, 0] * side > 0.05) & (where[:, 1] * above > 0.05) & (part != HAIR)
        assert here.sum() > 10
        assert torch.allclose(color[here], torch.tensor(expected) / 255, atol=1e-3), (side, above)


def test_a_picture_that_is_not_there_leaves_its_material_plain(tmp_path, bust, caplog):
    _, color, part = seen(textured(bust, tmp_path, line="map_Kd lost.png"))
    assert torch.allclose(color[part != HAIR], torch.tensor([0.0, 0.5, 0.0]), atol=1e-3)
    assert "lost.png is not there" in caplog.text


def test_a_box_is_no_head(tmp_path):
    import trimesh

    box = trimesh.creation.box((1, 1, 0.02)).subdivide().subdivide()
    with pytest.raises(StyleAvatarError, match="no head"):
        load(tmp_path / "box.ply", rigs.ply(box.vertices, box.faces))


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("Face/Face/N00_000_00_FaceBrow_00_FACE (Instance)", LASH), ("Face//N00_000_00_EyeIris_00_EYE", EYE),
        ("Wolf3D_Glasses//", FRAME), ("Body/Body/F00_001_01_Tops_01_CLOTH", SHIRT), ("//hair.003", HAIR),
        ("Wolf3D_Head//Wolf3D_Skin", SKIN), ("EyeLeft//", EYE), ("//Material.001", SKIN),
    ],
)  # fmt: skip
def test_names_tell_parts(name, part):
    assert part_of(name) == part


_OPENED: list[str] = []


def _watch(event: str, args: tuple) -> None:
    if event == "open" and isinstance(args[0], str):
        _OPENED.append(args[0])
    elif event.startswith("socket.") or event in ("subprocess.Popen", "os.system", "os.exec"):
        _OPENED.append(event)


@pytest.fixture(scope="module")
def watched():
    sys.addaudithook(_watch)
    return _OPENED


def test_there_are_a_hundred_hostile_files():
    assert len(HOSTILE) >= 100


@pytest.mark.parametrize("name", list(HOSTILE))
def test_hostile_files_are_refused(tmp_path, watched, name):
    path = tmp_path / name
    path.write_bytes(HOSTILE[name])
    watched.clear()
    started = time.process_time()
    with pytest.raises(StyleAvatarError) as refusal:
        load_figure(path)
    assert time.process_time() - started < 5
    assert isinstance(refusal.value, FileRefused) or name.startswith("transparent")
    outside = [file for file in watched if "passwd" in file or "win.ini" in file or file.startswith("socket")]
    assert not outside
    assert len(str(refusal.value)) < 1500


def test_time_and_size_are_limited(tmp_path, bust):
    data = rigs.obj(bust.vertices.numpy(), bust.faces.numpy()).encode()
    for limits in (Limits(seconds=0.0), Limits(bytes=1000), Limits(vertices=100), Limits(faces=100)):
        with pytest.raises(FileRefused):
            load(tmp_path / "a.obj", data, limits=limits)


def test_links_out_of_the_folder_are_refused(tmp_path):
    (tmp_path / "secret.mtl").write_text("newmtl a\nKd 1 0 0\n")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "a.mtl").symlink_to(tmp_path / "secret.mtl")
    with pytest.raises(FileRefused, match="outside"):
        load(inside / "a.obj", b"mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")


def test_meshes_named_like_bones_are_no_skeleton(tmp_path, bust):
    """Blender exports of loose parts: nodes called Head and Arm that all stand at the origin."""
    glb = rigs.Glb()
    place = glb.array(bust.vertices.numpy(), "VEC3", np.float32)
    faces = glb.array(bust.faces.numpy().reshape(-1), "SCALAR", np.uint32)
    glb.json["meshes"] = [{"primitives": [{"attributes": {"POSITION": place}, "indices": faces}]}]
    glb.json["nodes"] = [{"name": "Head", "mesh": 0}, {"name": "Arm.L"}, {"name": "Arm.R"}]
    glb.json["scenes"] = [{"nodes": [0, 1, 2]}]
    figure = load(tmp_path / "loose.glb", glb.bytes())
    assert figure.found_by == "fit"
    assert_near(bust, figure, shoulders=0.09)
