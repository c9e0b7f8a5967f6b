"""What the discriminator is shown: reals and fakes go through the same augmentation, blur and choice of label."""

from typing import NamedTuple

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from styleavatar3d.gan.augment import DRAWS, augment
from styleavatar3d.gan.camera_correction import corrected
from styleavatar3d.gan.conditioning import swapped
from styleavatar3d.gan.config import GanConfig
from styleavatar3d.gan.deformation import choose_poses
from styleavatar3d.gan.depth import of_rendering
from styleavatar3d.gan.discriminator import pictures_for
from styleavatar3d.gan.fades import blur
from styleavatar3d.gan.generator import Rendering
from styleavatar3d.gan.labels import label_codes
from styleavatar3d.gan.planes import Planes
from styleavatar3d.gan.schedule import Phase
from styleavatar3d.gan.state import TrainState
from styleavatar3d.gan.views import FakeDraws, Reals


class Shown(NamedTuple):
    """Pictures, what is told of their cameras, the cameras themselves, and the poses they were made with (none: no
    numbers)."""

    pictures: Float[Tensor, "batch channel height width"]
    codes: Float[Tensor, "batch code"]
    cameras: Float[Tensor, "batch 25"]
    poses: Float[Tensor, "batch pose"]


class Fakes(NamedTuple):
    """A batch of fakes, and what the generator's regularisers look at."""

    shown: Shown
    mask: Float[Tensor, "batch 1 rows columns"]
    planes: Planes
    shifts: Float[Tensor, "batch number"]
    """corrections of their cameras (none: no numbers)"""


def make_fakes(state: TrainState, draws: FakeDraws, config: GanConfig, phase: Phase) -> Fakes:
    """Latents and cameras -> planes -> views, as the discriminator sees them."""
    generator, aside, final = state.generator, state.aside, state.generator.config.image_resolution
    told = draws.labels
    if phase.swap:
        told = swapped(told, draws.others, draws.chance.uniform("swap", 1)[:, 0].to(told), phase.swap)
    codes = generator.mapping(draws.latents, labels=told)
    planes = generator.planes(
        codes, resolution=generator.config.plane_resolution * phase.resolution // final, fade=phase.fade
    )
    shifts, cameras, poses = draws.labels[:, :0], draws.labels, None
    if "correction" in aside:
        shifts = aside["correction"](draws.latents, draws.labels)
        cameras = corrected(draws.labels, shifts.to(draws.labels))
    if "pose" in aside:
        poses = choose_poses(aside["pose"], draws.latents, told)  # type: ignore[arg-type]
    enlarged = generator.config.resolution * phase.resolution // final
    size = phase.neural_resolution or enlarged
    noise = None
    if phase.density_noise:
        samples = sum(part.shape[-1] for part in draws.jitter)
        noise = draws.chance.normal("density noise", size * size, samples).to(draws.latents) * phase.density_noise
    view = generator.render(
        planes, cameras, size, jitter=draws.jitter, noise=noise, codes=codes, enlarged=enlarged, poses=poses
    )
    pictures = pictures_for(**parts_of(view, draws.labels, config))
    shown = show(state, pictures, draws, config, phase)
    return Fakes(shown._replace(poses=draws.labels[:, :0] if poses is None else poses), view.mask, planes, shifts)


def parts_of(view: Rendering, labels: Float[Tensor, "batch 25"], config: GanConfig) -> dict[str, Tensor]:
    """The parts of a rendering that the discriminator looks at, each at its own size (for `pictures_for`)."""
    judge = config.model.discriminator
    depth = view.depth[:, :0]
    if judge.depth:
        depth = of_rendering(view.depth, view.mask, labels, config.model.generator.box)
    parts = {"image": view.image, "mask": view.mask if judge.mask else view.mask[:, :0], "depth": depth}
    return parts | ({"raw": view.raw} if judge.raw else {})


def real_parts(reals: Reals, config: GanConfig, phase: Phase) -> dict[str, Tensor]:
    """The same of data: with super-resolution, mask and raw picture are as small as the generator renders them."""
    judge, generator = config.model.discriminator, config.model.generator
    masks = reals.masks if judge.mask else reals.masks[:, :0]
    parts = {"image": reals.images, "mask": masks, "depth": reals.depths if judge.depth else reals.depths[:, :0]}
    if not judge.raw:
        return parts
    size = phase.neural_resolution or generator.resolution
    small = {"raw": F.interpolate(reals.images, size=size, mode="area")}
    return parts | small | ({"mask": F.interpolate(masks, size=size, mode="area")} if judge.mask else {})


def show(
    state: TrainState,
    pictures: Float[Tensor, "batch channel height width"],
    draws: Reals | FakeDraws,
    config: GanConfig,
    phase: Phase,
) -> Shown:
    """Pictures and cameras on their way to the discriminator; differentiable twice in the pictures."""
    cameras = draws.labels
    if state.controller:
        changes = draws.chance.uniform("augment", DRAWS).to(cameras)
        raw = (slice(pictures.shape[1] - 3, pictures.shape[1]),) if config.model.discriminator.raw else ()
        pictures, cameras = augment(
            pictures, cameras, changes, state.controller.probability, config.train.augment, (slice(0, 3), *raw)
        )
    codes = label_codes(cameras, draws.label_draws, config.model.label, draws.label_spread[0])
    return Shown(blur(pictures, phase.blur), codes, cameras, cameras[:, :0])
