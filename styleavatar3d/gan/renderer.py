"""Cameras and planes -> picture, mask and depth (EG3D section 4.2; PanoHead for the mask)."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from styleavatar3d.camera.rays import box_intersection, rays
from styleavatar3d.gan.deformation import unpose
from styleavatar3d.gan.planes import Depths, Planes
from styleavatar3d.gan.recomputation import Thrifty
from styleavatar3d.ops import Decoder, March, Rendering, fits, render_planes, render_planes_reference, sample_field
from styleavatar3d.ops.composite import Spacing

START_DENSITY = -2.0  # raw density of an untrained field: half transparent, so that every depth receives gradient


class FieldDecoder(nn.Module):
    """Features of a point -> raw density and colours: one hidden layer at an equalised learning rate."""

    def __init__(self, channels: int, hidden: int, features: int):
        super().__init__()
        self.hidden_weight = nn.Parameter(torch.randn(channels, hidden))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))
        self.output_weight = nn.Parameter(torch.randn(hidden, 1 + features))
        self.output_bias = nn.Parameter(torch.tensor([START_DENSITY] + [0.0] * features))

    def effective(self) -> Decoder:
        """The weights with their gains multiplied in, as the renderer takes them."""
        hidden_gain = math.sqrt(3 / len(self.hidden_weight))  # the mean over three planes has a third of their variance
        output_gain = 1 / math.sqrt(len(self.output_weight))
        return Decoder(
            self.hidden_weight * hidden_gain, self.hidden_bias, self.output_weight * output_gain, self.output_bias
        )


class Renderer(Thrifty):
    """Importance-sampled volume rendering of planes inside a cube of side `box` world units.

    Rays are sampled between `near_far`, or where they cross the cube. Within `margin` of the cube's x and z faces the
    volume is empty (PanoHead), which keeps what has no data from hanging at the border.
    """

    def __init__(
        self,
        *,
        channels: int,
        hidden: int,
        features: int,
        box: float,
        depths: Depths,
        density_gain: float,
        near_far: tuple[float, float] | None = None,
        spacing: Spacing = "depth",
        margin: float = 0.0,
    ):
        super().__init__()
        self.decoder = FieldDecoder(channels, hidden, features)
        self.box, self.depths, self.density_gain, self.near_far = box, depths, density_gain, near_far
        self.march = March(spacing=spacing, crop=box / 2 - margin if margin else math.inf)

    def settings(self) -> dict:
        """How the field is read, for the operators."""
        return {"box": self.box, "depths": self.depths, "hidden": "leaky_relu", "colors": "sigmoid"}

    def forward(
        self,
        planes: Planes,
        labels: Float[Tensor, "batch 25"],
        resolution: int,
        coarse: Float[Tensor, "batch _ coarse"],
        fine: Float[Tensor, "batch _ fine"],
        noise: Float[Tensor, "batch rays samples"] | None = None,
        poses: Float[Tensor, "batch 6"] | None = None,
    ) -> Rendering:
        """Maps of resolution^2 rays in row-major order; `coarse`, `fine` in [0, 1) place the samples of each image.

        `noise` is added to the raw densities of coarse, then fine samples. With `poses` the field is read where points
        of the posed figure are at rest; no fused kernel knows that.
        """
        origins, directions = rays(labels, resolution)
        near, far = self.limits(origins, directions)
        decoder, ways = self.decoder.effective(), (origins, directions, near, far, coarse, fine)
        how = {"density_gain": self.density_gain, "march": self.march} | self.settings()
        bent = {} if poses is None else {"bend": partial(unpose, poses=poses)}
        render = partial(render_planes_reference if bent else render_planes, planes.levels, decoder, **how, **bent)
        if not self.checkpointing or (not bent and fits(planes.levels, decoder, ways)):  # kernels keep planes and rays
            return render(*ways, noise=noise)
        return self._in_runs(render, ways, noise)

    def _in_runs(
        self, render: Callable[..., Rendering], ways: Sequence[Tensor], noise: Tensor | None, rays: int = 512
    ) -> Rendering:
        """So many rays at a time, each run of which is recomputed by itself."""
        runs = []
        for start in range(0, ways[0].shape[1], rays):
            some = [part if part.shape[1] == 1 else part[:, start : start + rays] for part in ways]
            noisy = partial(render, noise=None if noise is None else noise[:, start : start + rays])
            runs.append(self.part(noisy, *some))
        return Rendering(*(torch.cat(maps, 1) for maps in zip(*runs, strict=True)))

    def limits(
        self, origins: Float[Tensor, "batch rays 3"], directions: Float[Tensor, "batch rays 3"]
    ) -> tuple[Float[Tensor, "batch rays"], Float[Tensor, "batch rays"]]:
        """Distances between which rays are sampled."""
        if self.near_far is None:
            return box_intersection(origins, directions, self.box)
        near, far = (origins.new_full(origins.shape[:2], limit) for limit in self.near_far)
        return near, far

    def field(
        self, planes: Planes, points: Float[Tensor, "batch point 3"]
    ) -> tuple[Float[Tensor, "batch point feature"], Float[Tensor, "batch point"]]:
        """Colours in [0, 1] and density per world unit at points of the world."""
        colors, raw = sample_field(planes.levels, self.decoder.effective(), points, **self.settings())
        outside = points[..., [0, 2]].abs().amax(-1) > self.march.crop
        return colors, (self.density_gain * torch.nn.functional.softplus(raw - 1)).masked_fill(outside, 0)
