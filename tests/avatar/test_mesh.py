"""Meshes of fields whose surface is known, and the file that holds them."""

import json
import os
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from styleavatar3d.avatar.glb import to_glb
from styleavatar3d.avatar.mesh import METRES_PER_UNIT, Mesh, mesh_of_field
from styleavatar3d.errors import StyleAvatarError

RADIUS = 0.3
LEVEL = 10.0
VALIDATOR = "gltf-validator@2.0.0-dev.3.10"


def ball(points: torch.Tensor, center=(0.0, 0.0, 0.0), radius=RADIUS) -> tuple[torch.Tensor, torch.Tensor]:
    distance = (points - torch.tensor(center)).norm(dim=-1)
    colors = torch.stack([(points[:, 0] > 0).float(), (points[:, 1] > 0).float(), (points[:, 2] > 0).float()], 1)
    return colors, LEVEL + 100 * (radius - distance)


@pytest.fixture(scope="module")
def sphere() -> Mesh:
    return mesh_of_field(ball, box=0.8, resolution=48, level=LEVEL)


def test_a_ball_becomes_a_closed_sphere_of_its_radius_in_metres(sphere):
    shape = trimesh.Trimesh(sphere.vertices, sphere.faces, process=False)
    assert shape.is_watertight and shape.euler_number == 2
    radii = np.linalg.norm(sphere.vertices, axis=1) / METRES_PER_UNIT
    assert np.abs(radii - RADIUS).max() < 0.001
    assert shape.volume == pytest.approx(4 / 3 * np.pi * (RADIUS * METRES_PER_UNIT) ** 3, rel=0.01)


def test_faces_and_normals_point_outwards(sphere):
    a, b, c = (sphere.vertices[sphere.faces[:, i]].astype(np.float64) for i in range(3))
    assert ((np.cross(b - a, c - a) * (a + b + c)).sum(1) > 0).all()
    outward = sphere.vertices / np.linalg.norm(sphere.vertices, axis=1, keepdims=True)
    assert (sphere.normals * outward).sum(1).min() > 0.99


def test_axes_are_kept(sphere):
    agree = (sphere.colors > 0.5) == (sphere.vertices > 0)
    assert agree.mean() > 0.99


def test_only_the_largest_component_stays():
    def two(points):
        colors, large = ball(points, (-0.1, 0.0, 0.0), 0.2)
        return colors, torch.maximum(large, ball(points, (0.3, 0.0, 0.0), 0.06)[1])

    mesh = mesh_of_field(two, 0.8, 48, LEVEL)
    assert mesh.vertices[:, 0].max() / METRES_PER_UNIT == pytest.approx(0.1, abs=0.01)


def test_a_field_that_fills_the_box_is_closed_at_its_border():
    mesh = mesh_of_field(lambda points: (torch.zeros_like(points), torch.full((len(points),), 99.0)), 0.8, 16, LEVEL)
    assert trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).is_watertight


@pytest.mark.parametrize(("resolution", "level"), [(4, 10.0), (10_000, 10.0), (16, 0.0), (16, 1e6)])
def test_impossible_meshes_are_refused(resolution, level):
    with pytest.raises(StyleAvatarError):
        mesh_of_field(ball, 0.8, resolution, level)


def test_a_glb_reads_back_with_its_colours_and_provenance(sphere, tmp_path):
    mesh = Mesh(sphere.vertices, sphere.faces, sphere.normals, sphere.colors, {"licence": "Apache-2.0"})
    path = mesh.save(tmp_path / "ball.glb")
    read = trimesh.load(path, force="mesh")
    np.testing.assert_allclose(read.bounds, [sphere.vertices.min(0), sphere.vertices.max(0)], atol=1e-6)
    assert len(read.faces) == len(sphere.faces)
    document = json_of(path.read_bytes())
    assert document["asset"]["extras"] == {"licence": "Apache-2.0"}


def test_the_khronos_validator_finds_nothing(sphere, tmp_path):
    validator = gltf_validator()
    path = tmp_path / "ball.glb"
    path.write_bytes(to_glb(sphere))
    script = (
        "require('gltf-validator').validateBytes(new Uint8Array(require('fs').readFileSync(process.argv[1])))"
        ".then(report => console.log(JSON.stringify(report.issues)))"
    )
    done = subprocess.run(["node", "-e", script, str(path)], cwd=validator, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    issues = json.loads(done.stdout)
    assert issues["numErrors"] == issues["numWarnings"] == 0, issues["messages"]


def json_of(glb: bytes) -> dict:
    length = struct.unpack_from("<I", glb, 12)[0]
    return json.loads(glb[20 : 20 + length])


def gltf_validator() -> Path:
    """A folder where node finds the validator; it is installed once into the user's cache."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("the Khronos glTF validator needs node and npm")
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "styleavatar3d" / "gltf-validator"
    if not (folder / "node_modules" / "gltf-validator").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), VALIDATOR]
        if subprocess.run(command, capture_output=True, timeout=120).returncode:
            pytest.skip("the Khronos glTF validator cannot be installed: npm does not reach its registry")
    return folder
