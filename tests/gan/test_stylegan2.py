"""What StyleGAN2's layers keep between calls, and the one that has a shape of its own."""

import copy

import pytest
import torch

from styleavatar3d.gan.stylegan2 import SynthesisLayer, ToRGBLayer, modulated_convolution
from styleavatar3d.ops.bias_act import bias_act

INPUTS = torch.randn(2, 6, 4, 4, generator=torch.Generator().manual_seed(0)), torch.ones(2, 3)


def layer(up: int) -> SynthesisLayer:
    torch.manual_seed(0)
    return SynthesisLayer(6, 5, w_dim=3, resolution=4 * up, up=up).requires_grad_(False)


@torch.enable_grad()
def descend(layer: SynthesisLayer) -> SynthesisLayer:
    layer(*INPUTS)
    optimizer = torch.optim.Adam(layer.parameters(), 0.1, fused=True)
    layer(*INPUTS).square().sum().backward()
    optimizer.step()
    return layer


CHANGES = {
    "an average": lambda layer: layer.weight.lerp_(torch.ones(()), 0.5),
    "averages": lambda layer: torch._foreach_lerp_([layer.weight], [torch.ones_like(layer.weight)], 0.5),
    "a change in place": lambda layer: layer.weight.add_(1),
    "other weights": lambda layer: layer.load_state_dict({k: v + 1 for k, v in layer.state_dict().items()}),
    "another parameter": lambda layer: setattr(layer, "weight", torch.nn.Parameter(layer.weight + 1)),
    "another number format": lambda layer: layer.half().float(),
    "training": lambda layer: descend(layer.requires_grad_()),
    "training, then rest": lambda layer: descend(layer.requires_grad_()).requires_grad_(False),
}


@torch.no_grad()
@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("change", CHANGES)
def test_what_is_kept_of_frozen_weights_follows_their_changes(change, up):
    changed, fresh = layer(up), layer(up)
    before = changed(*INPUTS)
    torch.testing.assert_close(changed(*INPUTS), before, rtol=0, atol=0)
    CHANGES[change](changed)
    found = changed(*INPUTS)
    fresh.load_state_dict(changed.state_dict())
    torch.testing.assert_close(found, fresh(*INPUTS), rtol=0, atol=0)
    assert not torch.equal(found, before)


def test_a_copy_keeps_nothing_of_the_weights_that_it_was_made_of():
    original = layer(1)
    with torch.no_grad():
        before = original(*INPUTS)
        other = copy.deepcopy(original)
        other.weight.add_(1)
        assert not torch.allclose(other(*INPUTS), before)
        torch.testing.assert_close(original(*INPUTS), before, rtol=0, atol=0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("clamp", [None, 0.5])
def test_a_layer_to_pictures_is_the_modulated_convolution(layout, clamp):
    torch.manual_seed(0)
    to_picture, (x, w) = ToRGBLayer(6, 3, w_dim=3, clamp=clamp), INPUTS
    to_picture.bias.data.normal_()
    wanted = modulated_convolution(x, to_picture.weight, to_picture.styles(w), demodulate=False)
    wanted = bias_act(wanted, to_picture.bias, clamp=clamp)
    torch.testing.assert_close(to_picture(x.contiguous(memory_format=layout), w), wanted)
