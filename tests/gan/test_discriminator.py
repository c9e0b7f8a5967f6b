"""The discriminator, and the losses that need no more than logits."""

import pytest
import torch
from torch import nn

from styleavatar3d.config import ConfigError, validate
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.gan.discriminator import (
    Discriminator,
    DiscriminatorConfig,
    minibatch_deviation,
    pictures_for,
    preset_widths,
)
from styleavatar3d.gan.losses import (
    average_decay,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    mask_uncertainty,
    update_average,
)

TINY = DiscriminatorConfig(
    resolution=16, entry_resolution=8, widths=(4, 8, 8), label_size=6, label_width=8, precision="parameter"
)


@pytest.mark.parametrize("size", [8, 16])
def test_one_logit_an_image_at_each_entry(size):
    assert Discriminator(TINY)(torch.randn(4, 4, size, size), torch.randn(4, 6)).shape == (4,)


def test_a_level_that_has_not_faded_in_changes_nothing():
    discriminator, labels = Discriminator(TINY), torch.randn(4, 6)
    pictures = torch.randn(4, 4, 16, 16)
    small = discriminator(nn.functional.avg_pool2d(pictures, 2), labels)
    assert torch.allclose(discriminator(pictures, labels, fade=0.0), small, atol=1e-6)
    assert not torch.allclose(discriminator(pictures, labels, fade=1.0), small, atol=1e-3)


def test_the_label_matters():
    discriminator, pictures = Discriminator(TINY), torch.randn(4, 4, 16, 16)
    assert not torch.allclose(discriminator(pictures, torch.eye(6)[:4]), discriminator(pictures, torch.eye(6)[2:]))


def test_minibatch_deviation_looks_at_neighbours_only():
    x = torch.randn(8, 3, 4, 4)
    whole = minibatch_deviation(x, 4)
    parts = torch.cat([minibatch_deviation(x[:4], 4), minibatch_deviation(x[4:], 4)])
    assert torch.equal(whole, parts)
    wanted = (x[:4].var(0, unbiased=False) + 1e-8).sqrt().mean()
    assert whole[0, 0, 0, 0].item() == pytest.approx(wanted.item(), rel=1e-5)


def test_pictures_carry_mask_and_raw_at_image_size():
    image, mask, raw = torch.zeros(2, 3, 8, 8), torch.ones(2, 1, 4, 4), torch.full((2, 3, 4, 4), 0.5)
    nothing = mask[:, :0]
    assert torch.equal(pictures_for(image, mask * 0, nothing)[:, 3:], -torch.ones(2, 1, 8, 8))
    stacked = pictures_for(image, mask, nothing, raw)
    assert stacked.shape == (2, 7, 8, 8)
    assert (stacked[:, 3] == 1).all() and (stacked[:, 4:] == 0.5).all()


def test_pictures_carry_depth_where_it_is_looked_at():
    image, mask, depth = torch.zeros(2, 3, 8, 8), torch.ones(2, 1, 8, 8), torch.rand(2, 1, 8, 8)
    assert torch.equal(pictures_for(image, mask, depth)[:, 4:], depth * 2 - 1)
    config = DiscriminatorConfig(resolution=16, entry_resolution=8, widths=(4, 8, 8), depth=True, group=2)
    assert Discriminator(config)(pictures_for(image, mask, depth), torch.zeros(2, 46)).shape == (2,)


def test_widths_must_end_at_four_pixels():
    with pytest.raises(ValueError, match="end at 4 px only from 16 px"):
        DiscriminatorConfig(resolution=32, widths=(4, 8, 8))


class LinearJudge(nn.Module):
    """logit = <weight, picture> + bias, whose R1 penalty is |weight|^2 for any picture."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(4 * 8 * 8)), nn.Parameter(torch.zeros(()))

    def forward(self, pictures, labels, *, fade, precise):
        assert precise
        return pictures.flatten(1) @ self.weight * fade + self.bias


def test_the_gradient_penalty_of_a_linear_judge_is_its_squared_norm():
    judge = LinearJudge()
    penalty = gradient_penalty(judge, torch.randn(5, 4, 8, 8), torch.zeros(5, 6), 0.5)
    assert penalty.item() == pytest.approx(judge.weight.square().sum().item() / 4, rel=1e-5)
    penalty.backward()
    assert torch.allclose(judge.weight.grad, judge.weight.detach() / 2, atol=1e-5)
    assert judge.bias.grad is not None and judge.bias.grad.item() == 0


def test_the_gradient_penalty_alone_gives_every_parameter_a_gradient():
    discriminator = Discriminator(TINY)
    gradient_penalty(discriminator, torch.randn(4, 4, 16, 16), torch.randn(4, 6)).backward()
    assert [name for name, p in discriminator.named_parameters() if p.grad is None] == []


def test_losses_at_known_logits():
    zero, sure = torch.zeros(4), torch.full((4,), 50.0)
    assert generator_loss(zero).item() == pytest.approx(0.693147, rel=1e-5)
    assert discriminator_loss(sure, -sure).item() == pytest.approx(0, abs=1e-6)
    assert discriminator_loss(-sure, sure).item() == pytest.approx(100, rel=1e-5)
    assert mask_uncertainty(torch.tensor([[[[0.0, 1.0, 0.5, 0.5]]]])).item() == pytest.approx(0.5)


def test_the_average_has_the_stated_half_life():
    assert average_decay(1000, 10**9, 1000) == pytest.approx(0.5)
    assert average_decay(1000, 20_000, 10**9) == pytest.approx(0.5)
    current, average = nn.Linear(2, 2), nn.Linear(2, 2)
    wanted = (current.weight + average.weight).detach() / 2
    update_average(average, current, 0.5)
    assert torch.allclose(average.weight, wanted)


def test_channels_that_are_not_looked_at_are_left_out():
    bare = TINY.model_copy(update={"mask": False})
    image, nothing = torch.randn(4, 3, 16, 16), torch.zeros(4, 0, 16, 16)
    assert bare.channels == 3 and Discriminator(bare)(pictures_for(image, nothing, nothing), torch.randn(4, 6)).shape
    assert DiscriminatorConfig(raw=True, depth=True).channels == 8


def test_without_a_label_it_judges_pictures_alone():
    discriminator = Discriminator(TINY.model_copy(update={"label_size": 0}))
    pictures = torch.randn(4, 4, 16, 16)
    logits = discriminator(pictures, torch.zeros(4, 0))
    assert logits.shape == (4,) and not [n for n, _ in discriminator.named_parameters() if n.startswith("label")]
    logits.sum().backward()
    assert all(p.grad is not None for p in discriminator.parameters())


def test_presets_are_the_published_towers():
    narrow = preset_widths("narrow", 512)
    assert narrow == (36, 72, 144, 144, 144, 144, 144, 144)  # 512 px down to 4
    assert preset_widths("full", 512) == (64, 128, 256, 512, 512, 512, 512, 512)
    config = validate(DiscriminatorConfig, {"resolution": 64, "widths": "narrow"})
    assert config.widths == (144,) * 5 and validate(DiscriminatorConfig, config.model_dump()) == config
    with pytest.raises(ConfigError, match="one of full, narrow, not thin"):
        validate(DiscriminatorConfig, {"widths": "thin"})


def test_a_batch_too_small_for_minibatch_statistics_is_refused():
    for count in (0, 2, 6):
        with pytest.raises(StyleAvatarError, match="too small for minibatch statistics") as raised:
            minibatch_deviation(torch.zeros(count, 3, 4, 4), 4)
        assert "a multiple of model.discriminator.group, 4" in str(raised.value) and "--train.batch" in str(
            raised.value
        )
    assert minibatch_deviation(torch.randn(3, 2, 4, 4), 1).max() < 1e-3


def test_a_guessed_pose_is_told_but_not_taught_by_logits():
    discriminator = Discriminator(TINY.model_copy(update={"pose": True}))
    judged = discriminator.judge(torch.randn(4, 4, 16, 16), torch.randn(4, 6))
    assert judged.poses is not None and torch.equal(judged.poses, torch.zeros(4, 6))  # at rest at first
    judged.logits.sum().backward(retain_graph=True)
    assert all(p.grad is None for p in discriminator.pose.parameters())
    judged.poses.square().sum().backward()
    assert all(p.grad is not None for p in discriminator.pose.parameters())
    assert discriminator.label[0].weight.shape[1] == 6 + 6
