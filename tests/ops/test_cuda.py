"""The GPU's renderer: it compiles for the GPUs it is meant for, and run on a CPU it gives the reference's numbers."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from styleavatar3d.ops import March, _cuda, _fused, render_planes, render_planes_reference, sample_field_reference
from styleavatar3d.ops._build import SOURCES

SHIM = Path(__file__).with_name("gpu_on_cpu.cpp")
BOX, GAIN = 0.8, 10.0
CASES = {
    "miniature": {},
    "EG3D": {"depths": (1, 1, 1), "features": 32, "march": March("eg3d"), "axes": "eg3d", "limit": float("inf")},
    "pyramid": {
        "levels": (3, 6, 11), "depths": (3, 3, 3), "features": 6, "colors": "leaky_relu", "hidden_is": "softplus",
    },
    "bfloat16, shared, cropped": {"levels": (4, 8), "bfloat16": True, "shared": True, "march": March(crop=0.12)},
    "noise and disparity": {"noise": True, "colors": "none", "march": March("strata", "disparity")},
    "coarse only": {"samples": (7, 0)},
}  # fmt: skip

needs_compiler = pytest.mark.skipif(not shutil.which("c++"), reason="no C++ compiler")


@pytest.fixture(scope="module", params=[1, 5])
def on_cpu(request, tmp_path_factory):
    """The GPU's sources as a library for CPUs, with blocks of one thread or of five."""
    library = tmp_path_factory.mktemp("gpu") / f"on_cpu_{request.param}.so"
    flags = ["-O1", "-std=c++20", "-shared", "-fPIC", "-pthread", f"-DTHREADS={request.param}", f"-I{SOURCES / 'cuda'}"]
    subprocess.run(["c++", *flags, str(SHIM), "-o", str(library)], check=True)
    return _cuda.open_library(library)


def arguments(make_scene, name):
    """What the operator takes, and what the reference takes."""
    case = CASES[name]
    of_scene = {
        key: case[key] for key in ("depths", "features", "levels", "shared", "bfloat16", "samples") if key in case
    }
    scene = make_scene(**{"depths": (3, 1, 1), "rays": 11, "hidden": 12, **of_scene})
    options = {
        "box": BOX, "depths": case.get("depths", (3, 1, 1)), "density_gain": GAIN,
        "hidden": case.get("hidden_is", "leaky_relu"), "colors": case.get("colors", "sigmoid"),
        "axes": case.get("axes", "distinct"), "limit": case.get("limit", 30.0), "march": case.get("march", March()),
    }  # fmt: skip
    count = scene.coarse.shape[2] + scene.fine.shape[2]
    noise = torch.randn(2, 11, count, generator=torch.Generator().manual_seed(3)) if "noise" in case else None
    scene = scene._replace(fine=scene.fine.sort(-1).values) if options["march"].sampling == "eg3d" else scene
    numbers, switches = _fused.settings(
        **{key: options[key] for key in ("box", "limit", "hidden", "colors", "axes", "density_gain")},
        **options["march"]._asdict(),
    )
    levels = scene.planes if isinstance(scene.planes, list) else [scene.planes]
    rays = [part.contiguous() for part in (scene.origins, scene.directions, scene.near, scene.far, scene.far)]
    samples = [scene.coarse, scene.fine, torch.empty(0) if noise is None else noise]
    operator = (levels, list(scene.decoder), rays, samples, numbers, list(options["depths"]), switches)
    return operator, scene, options | {"noise": noise}


def assert_near(value, expected, relative):
    assert value.shape == expected.shape
    assert ((value - expected).abs().max() <= relative * expected.abs().max().clamp(min=1e-3)).item()


@needs_compiler
@pytest.mark.parametrize("name", CASES)
def test_its_pictures_and_gradients_are_those_of_the_reference(make_scene, monkeypatch, on_cpu, name):
    monkeypatch.setattr(_cuda, "kernels", lambda: on_cpu)
    (levels, decoder, rays, samples, *settings), scene, options = arguments(make_scene, name)
    *pixels, sample_depths, sample_noise = _cuda.render_planes(levels, decoder, rays, samples, *settings)
    leaves = [part.detach().clone().requires_grad_() for part in (*levels, *decoder)]
    count = len(levels)
    scene = scene._replace(planes=leaves[:count], decoder=type(scene.decoder)(*leaves[count:]))
    expected = render_planes_reference(*scene, **options)
    for value, wanted in zip(pixels, expected, strict=True):
        assert_near(value, wanted, 1e-5)
    upstream = [torch.randn_like(part) for part in expected]
    *planes, row = _cuda.render_planes_backward(
        levels, decoder, rays, [sample_depths, sample_noise], upstream, *settings
    )
    wanted = torch.autograd.grad(expected, leaves, upstream)
    for value, gradient in zip(planes, wanted[:count], strict=True):
        assert_near(value, gradient.float(), 2**-7 if gradient.dtype == torch.bfloat16 else 3e-5)
    for value, gradient in zip(row.split([part.numel() for part in decoder]), wanted[count:], strict=True):
        assert_near(value.view_as(gradient), gradient, 3e-5)


@needs_compiler
def test_its_field_is_that_of_the_reference(make_scene, monkeypatch, on_cpu):
    monkeypatch.setattr(_cuda, "kernels", lambda: on_cpu)
    (levels, decoder, _, _, *settings), scene, options = arguments(make_scene, "pyramid")
    points = torch.rand(2, 53, 3) - 0.5
    kept = {key: options[key] for key in ("box", "depths", "hidden", "colors", "axes", "limit")}
    expected = sample_field_reference(levels, scene.decoder, points, **kept)
    for value, wanted in zip(_cuda.sample_field(levels, decoder, points, *settings), expected, strict=True):
        assert_near(value, wanted, 1e-5)


@needs_compiler
def test_its_refusals_are_told(make_scene, monkeypatch, on_cpu):
    monkeypatch.setattr(_cuda, "kernels", lambda: on_cpu)
    (levels, *rest), *_ = arguments(make_scene, "miniature")
    with pytest.raises(RuntimeError, match="channels must be 16 or 32"):
        _cuda.render_planes([level[..., :8].contiguous() for level in levels], *rest)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.skipif(not shutil.which("nvcc"), reason="no nvcc")
def test_it_compiles_for_sm_80_and_sm_90(tmp_path):
    library = _cuda.compile(["80", "90"], tmp_path)
    assert library.stat().st_size > 100_000
    _cuda.open_library(library)  # its Job is ours


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", CASES)
def test_the_gpu_itself_gives_the_reference(make_scene, name):
    _, scene, options = arguments(make_scene, name)
    to = "cuda"
    options = {key: value.to(to) if torch.is_tensor(value) else value for key, value in options.items()}
    planes = [level.to(to) for level in scene.planes] if isinstance(scene.planes, list) else scene.planes.to(to)
    decoder = type(scene.decoder)(*(part.to(to).requires_grad_() for part in scene.decoder))
    scene = scene._replace(planes=planes, decoder=decoder)
    scene = type(scene)(*scene[:2], *(part.to(to) for part in scene[2:]))
    seen, expected = render_planes(*scene, **options), render_planes_reference(*scene, **options)
    for value, wanted in zip(seen, expected, strict=True):
        assert_near(value, wanted, 2e-5)
    upstream = [torch.randn_like(part) for part in expected]
    found, wanted = (torch.autograd.grad(value, list(decoder), upstream) for value in (seen, expected))
    for value, gradient in zip(found, wanted, strict=True):
        assert_near(value, gradient, 1e-4)
