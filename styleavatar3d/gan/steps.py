"""The parts of a training step: each changes one network and returns what the log wants to know."""

import torch
import torch.nn.functional as F
from torch import Tensor

from styleavatar3d.gan.config import GanConfig
from styleavatar3d.gan.depth import of_rendering
from styleavatar3d.gan.discriminator import pictures_for
from styleavatar3d.gan.generator import Generator
from styleavatar3d.gan.labels import view_labels
from styleavatar3d.gan.losses import (
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    mask_uncertainty,
    reach,
    squared_gradients,
)
from styleavatar3d.gan.reconstruction import codes_of, reconstruction_loss
from styleavatar3d.gan.schedule import Phase
from styleavatar3d.gan.state import TrainState
from styleavatar3d.gan.transport import carry
from styleavatar3d.gan.views import FakeDraws, Pairs, Reals, Views
from styleavatar3d.runtime.distributed import World


def reconstruction_step(
    state: TrainState, pairs: Pairs, config: GanConfig, phase: Phase, world: World
) -> dict[str, float]:
    """Update encoder and generator by what they reconstruct."""
    generator, encoder, optimizer = state.generator, state.encoder, state.reconstruction_optimizer
    assert encoder and optimizer, "what reconstructs has an encoder: see GanConfig"
    size = generator.config.plane_resolution * phase.resolution // generator.config.image_resolution
    perceived = config.model.perception.reconstruction if config.model.perception else 0.0
    loss, values = reconstruction_loss(generator, encoder, *pairs, size, phase.fade, state.perception, perceived)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    rate = encoder.config.rate * phase.rate * (1.0 if phase.warm else config.train.anchor_rate)
    descend(torch.nn.ModuleList([generator, encoder]), optimizer, rate, world)
    return values


def begin_to_draw(state: TrainState, views: Views, config: GanConfig, world: World) -> dict[str, float]:
    """Once, between reconstruction and discriminator: let the generator draw codes like those of the data."""
    assert state.encoder
    codes = codes_of(state.encoder, views, config.run.seed)
    fit = carry(state.generator.map, codes, config.model.transport, config.run.seed)
    for parameter in state.generator.map.parameters():  # machines may round differently
        parameter.data.copy_(world.average(parameter.data))
    state.average.map.load_state_dict(state.generator.map.state_dict())
    state.drawing = True
    return {"codes_off": fit.mapping, "flow_off": fit.flow}


def generator_step(
    state: TrainState, draws: FakeDraws, config: GanConfig, phase: Phase, world: World
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Update the generator; returns its pictures and their labels for the discriminator, and scalars."""
    if phase.held:
        with torch.no_grad():
            return *make_fakes(state.generator, draws, config, phase)[:2], {}
    pictures, labels, mask = make_fakes(state.generator, draws, config, phase)
    state.discriminator.requires_grad_(False)
    logits = state.discriminator(pictures, labels, fade=phase.fade)
    state.discriminator.requires_grad_(True)
    loss = generator_loss(logits)
    if state.heads and state.perception and config.model.perception:
        state.heads.requires_grad_(False)
        verdicts = state.heads(state.perception(pictures[:, :3]), labels)
        state.heads.requires_grad_(True)
        loss = loss + config.model.perception.adversarial * generator_loss(verdicts)
    if config.train.mask_uncertainty:
        loss = loss + config.train.mask_uncertainty * mask_uncertainty(mask)
    state.generator_optimizer.zero_grad(set_to_none=True)
    loss.backward()
    descend(state.generator, state.generator_optimizer, config.train.generator_rate * phase.rate, world)
    spread = pictures[:, :3].detach().std(0).mean()
    return pictures.detach(), labels, {"generator": loss.item(), "cover": mask.mean().item(), "spread": spread.item()}


def make_fakes(
    generator: Generator, draws: FakeDraws, config: GanConfig, phase: Phase
) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures as the discriminator sees them, their view labels, and masks."""
    final = generator.config.image_resolution
    size = generator.config.resolution * phase.resolution // final
    codes = generator.mapping(draws.latents)
    planes = generator.planes(
        codes, resolution=generator.config.plane_resolution * phase.resolution // final, fade=phase.fade
    )
    view = generator.render(planes, draws.labels, size, jitter=draws.jitter, codes=codes)
    raw = view.raw if config.model.discriminator.raw else None
    depth = view.depth[:, :0]
    if config.model.discriminator.depth:
        depth = of_rendering(view.depth, view.mask, draws.labels, generator.config.box)
    labels = view_labels(draws.labels, draws.label_draws, config.model.label)
    return pictures_for(view.image, view.mask, depth, raw), labels, view.mask


def real_pictures(reals: Reals, config: GanConfig) -> Tensor:
    """Data as the discriminator sees it: with super-resolution, mask and raw picture pass through half the size."""
    depths = reals.depths if config.model.discriminator.depth else reals.depths[:, :0]
    if not config.model.discriminator.raw:
        return pictures_for(reals.images, reals.masks, depths)
    raw, masks = (F.avg_pool2d(maps, 2) for maps in (reals.images, reals.masks))
    return pictures_for(reals.images, masks, depths, raw)


def discriminator_step(
    state: TrainState, reals: Reals, fakes: tuple[Tensor, Tensor], config: GanConfig, phase: Phase, world: World
) -> dict[str, float]:
    """Update the discriminator; every `penalty_interval` steps with the gradient penalty."""
    pictures = real_pictures(reals, config)
    labels = view_labels(reals.labels, reals.label_draws, config.model.label)
    both = state.discriminator(torch.cat([pictures, fakes[0]]), torch.cat([labels, fakes[1]]), fade=phase.fade)
    real_logits, fake_logits = both.chunk(2)
    loss = discriminator_loss(real_logits, fake_logits)
    values = {"discriminator": loss.item(), "real": real_logits.mean().item(), "fake": fake_logits.mean().item()}
    interval = config.train.penalty_interval
    if state.seen // config.train.batch % interval == 0:
        penalty = gradient_penalty(state.discriminator, pictures, labels, phase.fade)
        loss = loss + penalty * (phase.penalty / 2 * interval)
        values["penalty"] = penalty.item()
    state.discriminator_optimizer.zero_grad(set_to_none=True)
    loss.backward()
    descend(state.discriminator, state.discriminator_optimizer, config.train.discriminator_rate * phase.rate, world)
    return values


def heads_step(
    state: TrainState, reals: Reals, fakes: tuple[Tensor, Tensor], config: GanConfig, phase: Phase, world: World
) -> dict[str, float]:
    """Update the heads on features, if there are any; with a gradient penalty as often as the discriminator's."""
    heads, perception, optimizer, seeing = state.heads, state.perception, state.heads_optimizer, config.model.perception
    if not (heads and perception and optimizer and seeing):
        return {}
    with torch.no_grad():
        seen, made = perception(reals.images), perception(fakes[0][:, :3])
    labels = view_labels(reals.labels, reals.label_draws, config.model.label)
    real_logits, fake_logits = heads(seen, labels), heads(made, fakes[1])
    loss = discriminator_loss(real_logits, fake_logits)
    values = {"heads_real": real_logits.mean().item(), "heads_fake": fake_logits.mean().item()}
    interval = config.train.penalty_interval
    if seeing.penalty and state.seen // config.train.batch % interval == 0:
        levels = {str(index): level for index, level in enumerate(seen)}
        squares = squared_gradients(lambda **parts: heads.spread(list(parts.values()), labels), levels)
        penalty = torch.stack(list(squares.values())).sum() + reach(heads)
        loss = loss + penalty * (seeing.penalty / 2 * interval)
        values["heads_penalty"] = penalty.item()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    descend(heads, optimizer, config.train.discriminator_rate * phase.rate, world)
    return values


def descend(network: torch.nn.Module, optimizer: torch.optim.Adam, rate: float, world: World) -> None:
    """One Adam step with the gradients' mean over all processes."""
    world.average_gradients(network)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
