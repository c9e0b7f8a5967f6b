"""Mapping and synthesis: the fast form equals the per-sample definition."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from styleavatar3d.gan.backbone import Linear, StyledConvolution, Synthesis, demodulation, leaky, modulated_convolution
from styleavatar3d.gan.planes import to_planes

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "stylegan2_ops.safetensors"


def per_sample_convolution(x, weight, styles, demodulate):
    """Equation 1 and 3 of StyleGAN2, one sample at a time."""
    results = []
    for picture, style in zip(x, styles, strict=True):
        scaled = weight * style[None, :, None, None]
        if demodulate:
            scaled = scaled * (scaled.square().sum((1, 2, 3), keepdim=True) + 1e-8).rsqrt()
        results.append(F.conv2d(picture[None], scaled, padding=weight.shape[-1] // 2))
    return torch.cat(results)


def fast(x, weight, styles, demodulate):
    y = modulated_convolution(x, weight, styles, dtype=x.dtype)
    return y * demodulation(weight, styles)[:, :, None, None] if demodulate else y


@pytest.mark.parametrize("kernel, demodulate", [(3, True), (1, False)])
def test_modulated_convolution_equals_the_per_sample_form(kernel, demodulate):
    torch.manual_seed(0)
    x, weight, styles = (torch.randn(*s, dtype=torch.double) for s in ((4, 5, 6, 6), (7, 5, kernel, kernel), (4, 5)))
    found, wanted = fast(x, weight, styles, demodulate), per_sample_convolution(x, weight, styles, demodulate)
    assert torch.allclose(found, wanted, atol=1e-12)


@pytest.mark.parametrize("case", ["modulated_conv/demod", "modulated_conv/nodemod_k1"])
def test_modulated_convolution_reproduces_recorded_numbers(case):
    if not GOLDEN.exists():
        pytest.skip(f"the recorded numbers are not at {GOLDEN}")
    data = {name[len(case) + 1 :]: t for name, t in load_file(GOLDEN).items() if name.startswith(case + "/")}
    names = ("x", "weight", "styles")
    inputs = [data[f"in/{name}"].clone().requires_grad_() for name in names]
    y = fast(*inputs, demodulate="nodemod" not in case)
    assert torch.allclose(y, data["out/y"], atol=2e-5)
    gradients = torch.autograd.grad((y * data["in/dy"]).sum(), inputs, create_graph=True)
    for name, gradient in zip(names, gradients, strict=True):
        assert torch.allclose(gradient, data[f"grad/{name}"], atol=1e-4)
    second = torch.autograd.grad((gradients[0] * data["in/v"]).sum(), inputs[1:], allow_unused=True)
    for name, gradient in zip(names[1:], second, strict=True):
        found = torch.zeros_like(data[f"grad2/{name}"]) if gradient is None else gradient
        assert torch.allclose(found, data[f"grad2/{name}"], atol=5e-4)


def test_styled_layers_keep_the_variance_of_their_input():
    torch.manual_seed(0)
    layer = StyledConvolution(64, 64, 8)
    y = layer(torch.randn(8, 64, 16, 16), torch.zeros(8, 8), torch.float32)
    assert y.square().mean().item() == pytest.approx(1, abs=0.1)
    assert leaky(torch.randn(10000)).square().mean().item() == pytest.approx(1.04, abs=0.1)
    assert Linear(256, 64, rate=0.01)(torch.randn(64, 256)).std().item() == pytest.approx(1, abs=0.1)


def test_bfloat16_stays_close_to_float32():
    torch.manual_seed(0)
    synthesis, codes = Synthesis((32, 32, 16), 8, 16), torch.randn(2, 6, 16)
    precise = synthesis(codes, blocks=3, fade=1.0, dtype=torch.float32)
    rough = synthesis(codes, blocks=3, fade=1.0, dtype=torch.bfloat16)
    assert rough.dtype == torch.float32
    assert (rough - precise).norm() / precise.norm() < 0.03


def test_fewer_blocks_and_fading_are_the_same_network_seen_earlier():
    torch.manual_seed(0)
    synthesis, codes = Synthesis((8, 8, 8), 4, 8).double(), torch.randn(2, 6, 8, dtype=torch.double)
    small = synthesis(codes, blocks=2, fade=1.0, dtype=torch.double)
    unfaded = synthesis(codes, blocks=3, fade=0.0, dtype=torch.double)
    assert small.shape == (2, 4, 8, 8)
    assert torch.allclose(F.interpolate(small, scale_factor=2, mode="bilinear"), unfaded)


def test_fine_blocks_leave_the_last_channels_to_coarse_ones():
    torch.manual_seed(0)
    synthesis, codes = Synthesis((8, 8, 8), 6, 8, (8, 4)).double(), torch.randn(2, 6, 8, dtype=torch.double)
    picture = synthesis(codes, blocks=3, fade=1.0, dtype=torch.double)
    coarse = synthesis(codes, blocks=2, fade=1.0, dtype=torch.double)
    repeated = F.interpolate(coarse, scale_factor=2, mode="bilinear")
    assert torch.equal(picture[:, 4:], repeated[:, 4:]) and not torch.allclose(picture[:, :4], repeated[:, :4])


def test_every_slot_reaches_the_picture():
    synthesis = Synthesis((8, 8), 4, 8)
    codes = torch.randn(1, synthesis.slots, 8, requires_grad=True)
    synthesis(codes, blocks=2, fade=1.0, dtype=torch.float32).square().sum().backward()
    assert (codes.grad.abs().sum(2) > 0).all()


def test_planes_keep_each_texel_of_a_slice_together():
    features = torch.arange(2 * 10 * 3 * 4).view(2, 10, 3, 4).float()
    planes = to_planes(features, (3, 1, 1))
    assert planes.shape == (2, 3, 4, 5, 2) and planes.is_contiguous()
    assert torch.equal(planes[1, 2, 3].flatten(), features[1, :, 2, 3])
