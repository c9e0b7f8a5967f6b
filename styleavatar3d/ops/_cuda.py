"""The compiled renderer on NVIDIA GPUs: `csrc/cuda`, built by nvcc at first use and called through its C interface.

The library knows nothing of PyTorch: `Job` hands it sizes and addresses. So it can be compiled, and on a CPU with the
GPU's words defined away also run, on machines without a GPU.
"""

import ctypes
import functools
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from styleavatar3d.ops._build import SOURCES, built, load_or_warn

MAX_LEVELS = 8
PIXELS, GRADIENTS, FIELD = range(3)


class Level(ctypes.Structure):
    """As in job.h."""

    _fields_ = [
        ("texels", ctypes.c_void_p),
        ("gradient", ctypes.c_void_p),
        ("image_stride", ctypes.c_int64),
        ("height", ctypes.c_int32),
        ("width", ctypes.c_int32),
    ]


_ADDRESSES = (
    "hidden_weight", "hidden_bias", "output_weight", "output_bias", "origins", "directions", "near", "far", "backdrop",
    "coarse", "fine", "noise", "features", "mask", "depth", "sample_depths", "sample_noise", "features_gradient",
    "mask_gradient", "depth_gradient", "weight_gradient", "points",
)  # fmt: skip
_COUNTS = (
    "level_count", "bfloat16", "slices", "channels", "hidden", "outputs", "first_depth", "second_depth", "third_depth",
    "leaky", "colors", "eg3d_axes", "eg3d_sampling", "disparity", "images", "rays", "coarse_count", "fine_count",
    "coarse_rows", "fine_rows", "rays_a_block",
)  # fmt: skip
_NUMBERS = ("to_unit", "gain", "limit", "crop")


class Job(ctypes.Structure):
    """As in job.h, field by field."""

    _fields_ = [
        ("levels", Level * MAX_LEVELS),
        *((name, ctypes.c_void_p) for name in _ADDRESSES),
        *((name, ctypes.c_int32) for name in _COUNTS),
        *((name, ctypes.c_float) for name in _NUMBERS),
    ]


def kernels() -> Any:
    """The library for the current GPU, or None where the reference has to do."""
    capability = torch.cuda.get_device_capability()
    return load_or_warn("CUDA", lambda: _load(capability), "install the CUDA toolkit, whose nvcc must be found")


@functools.cache
def _load(capability: tuple[int, int]) -> Any:
    architecture = "{}{}".format(*capability)
    return open_library(built("cuda", "render_planes_cuda", (architecture,), lambda to: compile([architecture], to)))


def compile(architectures: Sequence[str], folder: Path) -> Path:
    """Build the library for GPUs such as "80" or "90" in a folder."""
    nvcc = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if nvcc is None:
        raise FileNotFoundError("nvcc not found")
    library = folder / "render_planes_cuda.so"
    targets = [f"-gencode=arch=compute_{name},code=sm_{name}" for name in architectures]
    command = [nvcc, "-O3", "-std=c++17", "--shared", "-Xcompiler=-fPIC", *targets, "-o", str(library)]
    run = subprocess.run([*command, str(SOURCES / "cuda" / "render_planes.cu")], capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(run.stderr or run.stdout or f"nvcc ended with {run.returncode}")
    return library


def open_library(path: Path) -> Any:
    """Load a library that has the interface of render_planes.cu."""
    library = ctypes.CDLL(str(path))
    library.styleavatar3d_run.restype = ctypes.c_char_p
    library.styleavatar3d_run.argtypes = [ctypes.POINTER(Job), ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
    if library.styleavatar3d_job_size() != ctypes.sizeof(Job):
        raise RuntimeError(f"{path.name} and _cuda.py disagree about Job")
    return library


def render_planes(
    levels: Sequence[Tensor],
    decoder: Sequence[Tensor],
    rays: Sequence[Tensor],
    samples: Sequence[Tensor],
    numbers: Sequence[float],
    depths: Sequence[int],
    switches: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As the operator in `_fused`."""
    near, (coarse, fine, noise) = rays[2], samples
    job = _job(levels, decoder, near.shape, numbers, depths, switches)
    _look_along(job, rays, coarse.shape[2], fine.shape[2])
    job.coarse_rows, job.fine_rows = coarse.shape[1], fine.shape[1]
    features = near.new_empty(*near.shape, decoder[3].shape[0] - 1)
    mask, depth, sample_noise = torch.empty_like(near), torch.empty_like(near), torch.empty_like(noise)
    sample_depths = near.new_empty(*near.shape, coarse.shape[2] + fine.shape[2])
    _address(
        job, coarse=coarse, fine=fine, noise=noise, features=features, mask=mask, depth=depth,
        sample_depths=sample_depths, sample_noise=sample_noise,
    )  # fmt: skip
    _run(job, PIXELS, near.device)
    return features, mask, depth, sample_depths, sample_noise


def render_planes_backward(
    levels: Sequence[Tensor],
    decoder: Sequence[Tensor],
    rays: Sequence[Tensor],
    drawn: Sequence[Tensor],
    pixel_gradients: Sequence[Tensor],
    numbers: Sequence[float],
    depths: Sequence[int],
    switches: Sequence[int],
) -> list[Tensor]:
    """As the operator in `_fused`. Gradients are summed in no fixed order."""
    near, (sample_depths, sample_noise) = rays[2], drawn
    job = _job(levels, decoder, near.shape, numbers, depths, switches)
    _look_along(job, rays, sample_depths.shape[2], 0)
    gradients = [torch.zeros_like(level, dtype=torch.float32) for level in levels]
    for level, gradient in zip(job.levels, gradients, strict=False):
        level.gradient = gradient.data_ptr()
    row = near.new_zeros(sum(part.numel() for part in decoder))
    features_gradient, mask_gradient, depth_gradient = pixel_gradients
    _address(
        job, sample_depths=sample_depths, sample_noise=sample_noise, noise=sample_noise, weight_gradient=row,
        features_gradient=features_gradient, mask_gradient=mask_gradient, depth_gradient=depth_gradient,
    )  # fmt: skip
    _run(job, GRADIENTS, near.device)
    return [*gradients, row]


def sample_field(
    levels: Sequence[Tensor],
    decoder: Sequence[Tensor],
    points: Tensor,
    numbers: Sequence[float],
    depths: Sequence[int],
    switches: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Features and raw density of points [images, points, 3]."""
    job = _job(levels, decoder, points.shape[:2], numbers, depths, switches)
    features = points.new_empty(*points.shape[:2], decoder[3].shape[0] - 1)
    density = points.new_empty(points.shape[:2])
    _address(job, points=points, features=features, depth=density)
    _run(job, FIELD, points.device)
    return features, density


def _job(levels, decoder, shape: Sequence[int], numbers, depths, switches) -> Job:
    job = Job()
    job.images, job.rays = shape
    for into, level in zip(job.levels, levels, strict=False):
        into.texels, into.height, into.width = level.data_ptr(), level.shape[1], level.shape[2]
        into.image_stride = level[0].numel() if len(level) > 1 else 0
    job.level_count, job.bfloat16 = len(levels), int(levels[0].dtype == torch.bfloat16)
    job.slices, job.channels = levels[0].shape[3:]
    job.hidden, job.outputs = decoder[2].shape
    job.first_depth, job.second_depth, job.third_depth = depths
    job.leaky, job.colors, job.eg3d_axes, job.eg3d_sampling, job.disparity = switches
    box, job.gain, job.limit, job.crop = numbers
    job.to_unit = 2 / box
    _address(job, **dict(zip(_ADDRESSES[:4], decoder, strict=True)))
    return job


def _look_along(job: Job, rays: Sequence[Tensor], coarse: int, fine: int) -> None:
    job.coarse_count, job.fine_count = coarse, fine
    _address(job, **dict(zip(_ADDRESSES[4:9], rays, strict=True)))


def _address(job: Job, **tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        setattr(job, name, tensor.data_ptr() if tensor.numel() else None)


def _run(job: Job, what: int, device: torch.device) -> None:
    on_gpu = device.type == "cuda"
    stream = torch.cuda.current_stream(device).cuda_stream if on_gpu else None
    message = kernels().styleavatar3d_run(ctypes.byref(job), what, device.index or 0 if on_gpu else 0, stream)
    if message:
        raise RuntimeError(f"the CUDA renderer failed: {message.decode()}")
