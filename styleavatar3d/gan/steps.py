"""The parts of a training step: each changes one network and returns what the log wants to know."""

from collections.abc import Mapping

import torch
from torch import Tensor

from styleavatar3d.gan.chance import Chance, pieces
from styleavatar3d.gan.config import GanConfig
from styleavatar3d.gan.discriminator import pictures_for
from styleavatar3d.gan.guard import Guard
from styleavatar3d.gan.labels import label_codes, wrong_cameras
from styleavatar3d.gan.losses import (
    batch_mean_penalty,
    density_variation,
    discriminator_loss,
    generator_loss,
    mask_uncertainty,
    penalty_weight,
    pose_loss,
    reach,
    split_penalty,
    squared_gradients,
    wrong_camera_loss,
)
from styleavatar3d.gan.reconstruction import codes_of, reconstruction_loss
from styleavatar3d.gan.schedule import Phase
from styleavatar3d.gan.shown import Fakes, Shown, make_fakes, real_parts, show
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
    both, values_seen = torch.nn.ModuleList([generator, encoder]), {"data": pairs.wanted.images, "loss": loss}
    rate = encoder.config.rate * phase.rate * (1.0 if phase.warm else config.train.anchor_rate)
    descend(state.guard, "reconstruction", values_seen, both, optimizer, rate, world)
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
) -> tuple[Shown, dict[str, float]]:
    """Update the generator and what learns beside it; returns what it showed, and scalars."""
    if phase.held:
        with torch.no_grad():
            return make_fakes(state, draws, config, phase).shown, {}
    train, optimizer = config.train, state.generator_optimizer
    optimizer.zero_grad(set_to_none=True)
    state.discriminator.requires_grad_(False)
    sums, shown = Sums(len(draws.labels)), []
    for piece in pieces(draws, train.micro_batch or len(draws.labels)):
        fakes = make_fakes(state, piece, config, phase)
        logits = state.discriminator(fakes.shown.pictures, fakes.shown.codes, fade=phase.fade)
        loss = generator_loss(logits)
        values = {"generator": loss, "cover": fakes.mask.mean()}
        loss = loss + deception(state, fakes.shown, config) + regularisation(state, fakes, piece.chance, config, phase)
        sums.descend(loss, values, len(logits))
        shown.append(Shown(*(part.detach() for part in fakes.shown)))
    state.discriminator.requires_grad_(True)
    rate, both = train.generator_rate * phase.rate, torch.nn.ModuleList([state.generator, state.aside])
    descend(state.guard, "generator", {"data": draws.labels, "loss": sums.loss}, both, optimizer, rate, world)
    everything = Shown(*(torch.cat(parts) for parts in zip(*shown, strict=True)))
    return everything, sums.values | {"spread": everything.pictures[:, :3].std(0).mean().item()}


def deception(state: TrainState, fakes: Shown, config: GanConfig) -> Tensor:
    """What the heads on features say of fakes, weighted; zero without heads."""
    if not (state.heads and state.perception and config.model.perception):
        return fakes.pictures.new_zeros(())
    state.heads.requires_grad_(False)
    verdicts = state.heads(state.perception(fakes.pictures[:, :3]), fakes.codes)
    state.heads.requires_grad_(True)
    return config.model.perception.adversarial * generator_loss(verdicts)


def regularisation(state: TrainState, fakes: Fakes, chance: Chance, config: GanConfig, phase: Phase) -> Tensor:
    """What the generator is asked for beside deceiving the discriminator; zero with the defaults."""
    train, generator = config.train, state.generator
    loss = fakes.mask.new_zeros(())
    if train.mask_uncertainty:
        loss = loss + train.mask_uncertainty * mask_uncertainty(fakes.mask)
    lazily = penalty_weight(state.seen, train.batch, train.density_interval)
    if train.density_variation and lazily:
        count, like = train.density_points, fakes.mask
        places = chance.uniform("places", 3 * count).unflatten(1, (count, 3)).to(like)
        steps = chance.normal("steps", count, 3).to(like)
        variation = density_variation(
            lambda points: generator.field(fakes.planes, points)[1] / generator.config.density_gain,
            places, steps, generator.config.box,
        )  # fmt: skip
        loss = loss + train.density_variation * lazily * variation
    if fakes.shifts.shape[1]:
        loss = loss + train.correction_drift * batch_mean_penalty(fakes.shifts, config.model.discriminator.group)
    if fakes.shown.poses.shape[1] and phase.pose_prior:
        loss = loss + phase.pose_prior * pose_loss(fakes.shown.poses, torch.zeros_like(fakes.shown.poses))
    return loss


def discriminator_step(
    state: TrainState, reals: Reals, fakes: Shown, config: GanConfig, phase: Phase, world: World
) -> dict[str, float]:
    """Update the discriminator; every `penalty_interval` steps with the gradient penalty. Steers the augmentation."""
    train, optimizer = config.train, state.discriminator_optimizer
    lazily = penalty_weight(state.seen, train.batch, train.penalty_interval) * phase.penalty / 2
    optimizer.zero_grad(set_to_none=True)
    sums, size = Sums(len(reals.labels)), train.micro_batch or len(reals.labels)
    for real, fake in zip(pieces(reals, size), pieces(fakes, size), strict=True):
        loss, values = verdict(state, real, fake, config, phase)
        if lazily:
            penalty, found = real_penalty(state, real, config, phase)
            loss, values = loss + penalty * lazily, values | found
        sums.descend(loss, values, len(real.labels))
    rate, seen = train.discriminator_rate * phase.rate, {"data": reals.images, "loss": sums.loss}
    taken = descend(state.guard, "discriminator", seen, state.discriminator, optimizer, rate, world)
    if taken and state.controller:
        sign = world.average(torch.tensor(sums.values["sign"], dtype=torch.double, device=world.device)).item()
        state.controller.adapt(sign, train.batch)
        sums.values["augment"] = state.controller.probability
    return sums.values


def heads_step(
    state: TrainState, reals: Reals, fakes: Shown, config: GanConfig, phase: Phase, world: World
) -> dict[str, float]:
    """Update the heads on features, if there are any; with a gradient penalty as often as the discriminator's."""
    heads, perception, optimizer, seeing = state.heads, state.perception, state.heads_optimizer, config.model.perception
    if not (heads and perception and optimizer and seeing):
        return {}
    shown = show(state, pictures_for(**real_parts(reals, config, phase)), reals, config, phase)
    with torch.no_grad():
        real, fake = perception(shown.pictures[:, :3]), perception(fakes.pictures[:, :3])
    real_logits, fake_logits = heads(real, shown.codes), heads(fake, fakes.codes)
    loss = discriminator_loss(real_logits, fake_logits)
    values = {"heads_real": real_logits.mean().item(), "heads_fake": fake_logits.mean().item()}
    lazily = penalty_weight(state.seen, config.train.batch, config.train.penalty_interval) * seeing.penalty / 2
    if lazily:
        levels = {str(index): level for index, level in enumerate(real)}
        squares = squared_gradients(lambda **parts: heads.spread(list(parts.values()), shown.codes), levels)
        penalty = torch.stack(list(squares.values())).sum() + reach(heads)
        loss, values = loss + penalty * lazily, values | {"heads_penalty": penalty.item()}
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    rate, seen = config.train.discriminator_rate * phase.rate, {"data": reals.images, "loss": loss}
    descend(state.guard, "heads", seen, heads, optimizer, rate, world)
    return values


def verdict(
    state: TrainState, reals: Reals, fakes: Shown, config: GanConfig, phase: Phase
) -> tuple[Tensor, dict[str, Tensor]]:
    """The discriminator's loss on reals, on fakes and, where the label asks for it, on reals with wrong cameras."""
    label, group = config.model.label, config.model.discriminator.group
    shown = show(state, pictures_for(**real_parts(reals, config, phase)), reals, config, phase)
    pictures, codes, count = [shown.pictures, fakes.pictures], [shown.codes, fakes.codes], len(reals.labels)
    wrong = None
    if label.wrong_camera:
        others, wrong = wrong_cameras(shown.cameras, group, label)
        pictures.append(shown.pictures)
        codes.append(label_codes(others, reals.label_draws, label, reals.label_spread[0]))
    judgement = state.discriminator.judge(torch.cat(pictures), torch.cat(codes), fade=phase.fade)
    real, fake, *rest = judgement.logits.split(count)
    loss = discriminator_loss(real, fake)
    values = {"discriminator": loss, "real": real.mean(), "fake": fake.mean()}
    if wrong is not None:
        values["wrong camera"] = wrong_camera_loss(rest[0], wrong)
        loss = loss + label.wrong_camera * values["wrong camera"]
    if judgement.poses is not None:
        values["pose"] = pose_loss(judgement.poses[count : 2 * count], fakes.poses)
        loss = loss + config.train.pose_weight * values["pose"]
    if state.controller:
        values["sign"] = real.detach().double().sign().mean()
    return loss, values


def real_penalty(state: TrainState, reals: Reals, config: GanConfig, phase: Phase) -> tuple[Tensor, dict[str, Tensor]]:
    """Squared gradients of real logits in the data as it is before augmentation and blur: of all that is seen alike,
    or of each part by its share."""
    judge, parts = state.discriminator, real_parts(reals, config, phase)

    def look(pictures: Tensor) -> Tensor:
        shown = show(state, pictures, reals, config, phase)
        return judge(shown.pictures, shown.codes, fade=phase.fade, precise=True)

    if config.train.penalty_shares is None:
        total = squared_gradients(look, {"pictures": pictures_for(**parts)})["pictures"] + reach(judge)
        return total, {"penalty": total}
    absent = {name: part for name, part in parts.items() if not part.shape[1]}
    present = {name: part for name, part in parts.items() if part.shape[1]}
    total, each = split_penalty(
        judge, lambda **some: look(pictures_for(**some, **absent)), present, config.train.penalty_shares
    )
    return total, {"penalty": total} | {name: total.new_tensor(value) for name, value in each.items()}


class Sums:
    """Gradients and means over a batch of `count` images that is looked at in pieces."""

    def __init__(self, count: int):
        self.count, self.loss, self.values = count, torch.zeros(()), dict[str, float]()

    def descend(self, loss: Tensor, values: Mapping[str, Tensor], images: int) -> None:
        """Add the gradients of a loss that is a mean over `images`, and what the log wants to know."""
        share = images / self.count
        (loss if share == 1 else loss * share).backward()
        self.loss = self.loss + loss.detach().cpu() * share
        for name, value in values.items():
            self.values[name] = self.values.get(name, 0.0) + value.item() * share


def descend(
    guard: Guard,
    part: str,
    values: Mapping[str, Tensor],
    network: torch.nn.Module,
    optimizer: torch.optim.Adam,
    rate: float,
    world: World,
) -> bool:
    """One Adam step with the gradients' mean over all processes; left out, on all of them, unless all is finite.
    Returns whether it was taken."""
    world.average_gradients(network)
    if not guard.passes(part, values, network, world):
        return False
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return True
