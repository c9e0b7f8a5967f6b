"""Whether an imported generator makes what the original made: stored tensors are computed anew and compared.

The file holds inputs (`z`, `c`, points, draws, weightings of gradients) and what the original made of them; the JSON
beside it says each tensor's tolerance. Samples lie half a step behind, importance quantiles are even from 0 to 1 and
noise is constant, unless a tensor's name says otherwise (`_explicit`, `_psi07`, `_noise_none`, `_half_res`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from styleavatar3d.camera.rays import rays
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.gan.classic import ClassicGenerator, Draws, even_draws
from styleavatar3d.gan.classic_config import CAMERA_NUMBERS
from styleavatar3d.gan.classic_renderer import (
    importance_depths,
    interval_weights,
    ray_limits,
    stratified_depths,
    volume_features,
)
from styleavatar3d.gan.generator import Rendering
from styleavatar3d.gan.imports import read_json_file, read_tensors

INPUTS = re.compile(r"z|c|p|dy_\w+|jitter_explicit|u_explicit|query_points")
_VIEW = re.compile(
    r"(image|image_raw|image_depth|image_mask|mask|alpha)"
    r"(?:_psi(?P<psi>\d{2}))?(?:_cutoff(?P<cutoff>\d+))?(?:_noise_(?P<noise>const|none))?"
    r"(?P<half>_half_res)?(?P<explicit>_explicit)?"
)
_CHUNK = 4096


@torch.no_grad()
def check_tensors(generator: ClassicGenerator, file: str) -> dict[str, Any]:
    """Every stored tensor's largest error and tolerance, the names of those that cannot be recomputed, and exit code
    2 if a tolerance is exceeded."""
    path = Path(file)
    stored, spec = read_tensors(path), read_json_file(path.with_suffix(".json"))
    described = spec.get("tensors", {})
    made = Recomputation(generator, stored, int(spec.get("neural_rendering_resolution", 0)))
    rows, left = [], []
    for name in sorted(stored):
        if INPUTS.fullmatch(name):
            continue
        tensor = made(name)
        if tensor is None:
            left.append(name)
        else:
            rows.append(_compare(name, tensor, stored, described.get(name, {})))
    exceeded = sum(not row["ok"] for row in rows)
    if not rows:
        raise StyleAvatarError("nothing in this file can be recomputed", got=", ".join(left) or file)
    return {
        "tensors": rows,
        "not_recomputed": ", ".join(left) or "none",
        "exceeded": exceeded,
        "exit_code": 2 if exceeded else 0,
    }


def _compare(name: str, made: Tensor, stored: dict[str, Tensor], described: dict[str, Any]) -> dict[str, Any]:
    if "suggested_atol" not in described:
        raise StyleAvatarError(f"there is no tolerance for {name}", expected="suggested_atol in the JSON beside it")
    wanted, tolerance = stored[name], float(described["suggested_atol"])
    row = {"tensor": name, "error": "of another size", "tolerance": tolerance, "ok": False}
    if made.numel() != wanted.numel():
        return row
    error = (made.detach().reshape(wanted.shape).to(wanted) - wanted).abs()
    where = described.get("compare_only_where")
    if where:
        error = error[_region(where, stored).expand_as(error)]
    largest = error.max().item() if error.numel() else 0.0
    if not math.isfinite(largest):
        return row | {"error": "not finite"}
    return row | {"error": float(f"{largest:.2e}"), "ok": largest <= tolerance}


def _region(condition: str, stored: dict[str, Tensor]) -> Tensor:
    """The pixels that a condition such as "alpha > 0.001" means."""
    match = re.fullmatch(r"\s*(\w+)\s*>\s*([\d.e+-]+)\s*", condition)
    region = None if match is None else stored.get(match[1], stored.get(f"image_{match[1]}"))
    if match is None or region is None:
        raise StyleAvatarError("this condition cannot be read", got=condition, expected="the name of a tensor > number")
    return region > float(match[2])


class Recomputation:
    """What a generator makes of the inputs of a file, by the names that the file gives it."""

    def __init__(self, generator: ClassicGenerator, stored: dict[str, Tensor], resolution: int):
        for name in ("z", "c"):
            if name not in stored:
                raise StyleAvatarError(f"the file holds no {name}", got=", ".join(list(stored)[:8]), expected="z and c")
        labels = stored["c"]
        if "p" in stored and labels.shape[1] == CAMERA_NUMBERS:  # camera and body pose, where they are stored apart
            labels = torch.cat([labels, stored["p"]], 1)
        self.generator, self.stored = generator, stored | {"c": labels}
        self.size = resolution or generator.config.neural_resolution
        self.labels = generator.shifted(stored["z"], labels)

    def __call__(self, name: str) -> Tensor | None:
        """The tensor of that name; None if nothing here makes it."""
        view = _VIEW.fullmatch(name)
        if view is not None:
            return self._view(view)
        gradient = re.fullmatch(r"grad_z_from_(image|image_raw)", name)
        if gradient is not None and f"dy_{gradient[1]}" in self.stored:
            return self._gradient(gradient[1])
        makers: dict[str, Callable[[], Tensor | None]] = {
            "ws": lambda: self.codes[:, : self._slots_stored()],
            "planes": lambda: self.planes[-1] if len(self.planes) == 1 else None,
            "query_sigma": lambda: self.query[1],
            "query_rgb": lambda: self.query[0],
        }
        if name in makers:
            return makers[name]()
        level = re.fullmatch(r"planes_(\d+)", name)
        if level is not None:
            return next((plane for plane in self.planes if plane.shape[-1] == int(level[1])), None)
        return self.trace.get(name) if _TRACED.fullmatch(name) else None

    @cached_property
    def codes(self) -> Tensor:
        return self.generator.mapping(self.stored["z"], self.stored["c"])

    def _slots_stored(self) -> int:
        shape = self.stored["ws"].shape
        return shape[1] if len(shape) == 3 else 1

    @cached_property
    def planes(self) -> tuple[Tensor, ...]:
        return self.generator.planes(self.codes)

    @cached_property
    def query(self) -> tuple[Tensor, Tensor]:
        return self.generator.raw_field(self.planes, self.stored["query_points"])

    # --- pictures ---

    def _view(self, match: re.Match[str]) -> Tensor | None:
        draws = self._explicit_draws() if match["explicit"] else None
        size = self.size // 2 if match["half"] else self.size
        truncation = 1.0 if match["psi"] is None else int(match["psi"]) / 10
        cutoff = None if match["cutoff"] is None else int(match["cutoff"])
        seen = self._render(truncation, cutoff, match["noise"] or "const", size, draws)
        stretched = self.generator.config.family != "eg3d"
        weight = (seen.mask + 0.001) / 1.002 if stretched else seen.mask
        made = {"image": seen.image, "image_raw": seen.raw, "image_depth": seen.depth, "alpha": weight}
        return made.get(match[1], seen.mask)

    def _render(self, truncation: float, cutoff: int | None, noise: Any, size: int, draws: Draws | None) -> Rendering:
        key = (truncation, cutoff, noise, size, draws is not None)
        if key not in self._rendered:
            self._rendered[key] = self.generator(
                self.stored["z"], self.stored["c"], truncation, cutoff, noise=noise, resolution=size, jitter=draws,
                chunk=_CHUNK,
            )  # fmt: skip
        return self._rendered[key]

    @cached_property
    def _rendered(self) -> dict[tuple, Rendering]:
        return {}

    def _explicit_draws(self) -> Draws:
        """The stored jitter [batch, rays, samples, 1] and importance numbers [batch * rays, samples]."""
        jitter = self.stored["jitter_explicit"]
        return jitter[..., 0], self.stored["u_explicit"].unflatten(0, jitter.shape[:2])

    def _gradient(self, name: str) -> Tensor:
        z = self.stored["z"].clone().requires_grad_()
        with torch.enable_grad():
            seen = self.generator(z, self.stored["c"], resolution=self.size)
            made = seen.image if name == "image" else seen.raw
            return torch.autograd.grad((made * self.stored[f"dy_{name}"]).sum(), z)[0]

    # --- along rays ---

    @cached_property
    def trace(self) -> dict[str, Tensor]:
        """Everything between cameras and maps, of the first and the second set of samples and of both together."""
        rendering = self.generator.config.rendering
        origins, directions = rays(self.labels[:, :CAMERA_NUMBERS], self.size)
        near, far = ray_limits(origins, directions, rendering)
        jitter, quantiles = even_draws(rendering.samples, origins)
        coarse = stratified_depths(near, far, jitter, disparity=rendering.disparity).expand(*origins.shape[:2], -1)
        made = {"ray_origins": origins, "ray_directions": directions, **self._samples("coarse", coarse)}
        weights = made["weights_coarse"] = interval_weights(coarse, made["seen_coarse"])
        if not quantiles.shape[-1]:
            return made
        fine = importance_depths(coarse, weights, quantiles)
        made |= self._samples("fine", fine)
        depths, order = torch.cat([coarse, fine], -1).sort(-1)
        raw = torch.cat([made["seen_coarse"], made["seen_fine"]], -1).gather(-1, order)
        return made | {"depths_all": depths, "weights_all": interval_weights(depths, raw)}

    def _samples(self, name: str, depths: Tensor) -> dict[str, Tensor]:
        generator, config = self.generator, self.generator.config
        origins, directions = rays(self.labels[:, :CAMERA_NUMBERS], self.size)
        points = (origins[:, :, None] + depths[..., None] * directions[:, :, None]).flatten(1, 2)
        features = volume_features(
            self.planes, points, box=config.rendering.box, depth=config.grid_depth, third_plane=config.third_plane
        )
        colors, raw = generator.raw_field(self.planes, points)
        return {
            f"depths_{name}": depths,
            f"points_{name}": points,
            f"features_{name}": features.mean(1),
            f"density_raw_{name}": raw,
            f"color_{name}": colors,
            f"seen_{name}": generator._seen_field(self.planes, points, 0.0)[1].view(depths.shape),
        }


_TRACED = re.compile(
    r"ray_(origins|directions)|(depths|points|features|density_raw|color)_(coarse|fine)|weights_coarse|(depths|weights)_all"
)
