"""The building blocks of StyleGAN2 against stored values, gradients and second gradients."""

import goldens
import pytest
import torch
from goldens import Golden, gradients
from torch.func import functional_call
from torch.library import opcheck

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.gan.classic_discriminators import minibatch_deviation
from styleavatar3d.gan.resampling import resampled_convolution, resize
from styleavatar3d.gan.stylegan2 import (
    Conv2dLayer,
    FullyConnectedLayer,
    modulated_convolution,
    normalize_second_moment,
)
from styleavatar3d.ops.bias_act import ACTIVATIONS, bias_act, bias_act_reference
from styleavatar3d.ops.upfirdn2d import (
    downsample2d,
    filter2d,
    make_filter,
    upfirdn2d,
    upfirdn2d_reference,
    upsample2d,
)

GROUPS = ("bias_act", "upfirdn2d", "conv2d_resample", "modulated_conv", "layer")
RESAMPLERS = {"upfirdn2d": upfirdn2d, "filter2d": filter2d, "upsample2d": upsample2d, "downsample2d": downsample2d}


def functions(golden: Golden, case: str, names: list[str]) -> list:
    """What the case tests, as functions of the inputs called `names`: the operator and its twin, if it has one."""
    settings = golden.settings["cases"][case]
    kernel = golden[f"filters/out/{settings['filter']}"] if settings.get("filter", "none") != "none" else None
    sizes = {key: settings[key] for key in ("up", "down", "padding") if key in settings}
    correlate = {"correlate": settings.get("flip_weight", True)}
    match settings["op"]:
        case "bias_act":
            options = {key: settings[key] for key in ("act", "alpha", "gain", "clamp", "dim") if key in settings}
            return [lambda x, b=None, f=f: f(x, b, **options) for f in (bias_act, bias_act_reference)]
        case "upfirdn2d" | "filter2d" | "upsample2d" | "downsample2d":
            options = sizes | {"flip": settings.get("flip_filter", False), "gain": settings.get("gain", 1.0)}
            twins = [upfirdn2d_reference] if settings["op"] == "upfirdn2d" else []
            return [lambda x, f=f: f(x, kernel, **options) for f in [RESAMPLERS[settings["op"]], *twins]]
        case "conv2d_resample":
            options = sizes | correlate | {"groups": settings["groups"]}
            return [lambda x, w: resampled_convolution(x, w, kernel, **options)]
        case "modulated_conv2d":
            options = sizes | correlate | {"demodulate": settings.get("demodulate", True), "kernel": kernel}
            return [lambda x, w, s, n=None: modulated_convolution(x, w, s, noise=n, **options)]
        case "fully_connected" | "conv_layer":
            return [layer_function(golden, case, names[1:])]
        case "minibatch_std":
            group, channels = settings["group_size"], settings["num_channels"]
            return [lambda x: minibatch_deviation(x, group=group, channels=channels)]
    return [normalize_second_moment]


def layer_function(golden: Golden, case: str, parameters: list[str]):
    settings = golden.settings["cases"][case]
    outputs, inputs = golden[f"{case}/in/param.weight"].shape[:2]
    options = {"bias": "param.bias" in parameters, "activation": settings.get("activation", "linear")}
    if settings["op"] == "fully_connected":
        layer, rest = FullyConnectedLayer(inputs, outputs, lr_multiplier=settings["lr_multiplier"], **options), ()
    else:
        options |= {key: settings[key] for key in ("up", "down", "kernel") if key in settings}
        layer = Conv2dLayer(inputs, outputs, clamp=settings.get("conv_clamp"), **options)
        rest = (settings.get("call_gain", 1.0),)
    names = [name.removeprefix("param.") for name in parameters]
    return lambda x, *values: functional_call(layer, dict(zip(names, values, strict=True)), (x, *rest))


def input_names(golden: Golden, case: str) -> list[str]:
    prefix = f"{case}/in/"
    found = {key.removeprefix(prefix) for key in golden.tensors if key.startswith(prefix)} - {"dy", "v"}
    first = [name for name in ("x", "b", "w", "weight", "styles", "noise") if name in found]
    return first + sorted(name for name in found if name.startswith("param."))


def check_case(golden: Golden, case: str) -> None:
    names = input_names(golden, case)
    for function in functions(golden, case, names):
        inputs = [golden[f"{case}/in/{name}"].clone().requires_grad_() for name in names]
        upstream = golden[f"{case}/in/dy"].clone().requires_grad_()
        value = function(*inputs)
        golden.check(f"{case}/out/y", value)
        first = gradients(value, inputs, upstream, create_graph=True)
        second = gradients(first[0], [upstream, *inputs], golden[f"{case}/in/v"])
        for order, found in (
            ("grad", zip(names, first, strict=True)),
            ("grad2", zip(["dy", *names], second, strict=True)),
        ):
            for name, gradient in found:
                if name != "noise":
                    golden.check(f"{case}/{order}/{name}", gradient)


def check_group(golden: Golden, group: str) -> None:
    cases = [case for case in golden.settings["cases"] if case.startswith(f"{group}/")]
    assert cases
    for case in cases:
        check_case(golden, case)


@pytest.mark.parametrize("group", GROUPS)
def test_a_few_operations_always(group):
    check_group(goldens.small("stylegan2_ops"), group)


@pytest.mark.parametrize("group", GROUPS)
def test_all_operations(group):
    check_group(goldens.load("stylegan2_ops"), group)


def test_kernels_from_taps():
    golden, eight = goldens.small("stylegan2_ops"), [1, 2, 3, 4, 3, 2, 1, 2]
    made = {
        "1331": make_filter([1, 3, 3, 1]),
        "1243": make_filter([1, 2, 4, 3]),
        "1331_gain4": make_filter([1, 3, 3, 1], gain=4),
        "1331_unnormalised": make_filter([1, 3, 3, 1], normalize=False),
        "3x3": make_filter([[1, 2, 0], [3, 1, 4], [0, 2, 5]]),
        "8tap_1d": make_filter(eight),
        "8tap_1d_flip_gain3": make_filter(eight, flip=True, gain=3),
    }
    for name, kernel in made.items():
        golden.check(f"filters/out/f_{name}", kernel)


@pytest.mark.parametrize("mode", ["antialiased", "none", "classic", 0.3])
def test_resizing(mode):
    golden = goldens.load("discriminator_tiny")
    golden.check(f"resize_{mode}_32_to_20", resize(golden["image"][:2], 20, mode, make_filter([1, 3, 3, 1])))


LAYOUTS = (torch.contiguous_format, torch.channels_last)


@pytest.mark.parametrize("act", ["linear", "lrelu", "swish"])
def test_bias_act_is_a_proper_operator(act):
    x, bias = torch.randn(2, 3, 4, 5, requires_grad=True), torch.randn(3, requires_grad=True)
    opcheck(torch.ops.styleavatar3d.bias_act.default, (x, bias, 1, act, 0.2, 1.5, 1.0, None, None))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bias_act_with_scale_and_noise_and_its_gradient_are_proper_operators(layout):
    x = torch.randn(2, 3, 4, 5).contiguous(memory_format=layout).requires_grad_()
    bias, scale, noise = (torch.randn(size, requires_grad=True) for size in [(3,), (2, 3), (2, 1, 4, 5)])
    curve = 1, "lrelu", 0.2, 1.5, 1.0
    opcheck(torch.ops.styleavatar3d.bias_act.default, (x, bias, *curve, scale, noise))
    gradient = torch.randn(2, 3, 4, 5, requires_grad=True)
    opcheck(torch.ops.styleavatar3d.bias_act_backward.default, (gradient, x.detach(), x, scale, True, True, *curve))


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_bias_act_has_right_second_derivatives(act):
    x, bias = torch.randn(2, 3, 4, dtype=torch.double, requires_grad=True), torch.randn(3, dtype=torch.double)
    assert torch.autograd.gradgradcheck(lambda x: bias_act(x, bias, act=act, clamp=0.9), x)
    torch.testing.assert_close(bias_act(x, act=act), bias_act_reference(x, act=act))


@pytest.mark.parametrize("act", ["linear", "lrelu", "swish"])
@pytest.mark.parametrize("noise_size", [(4, 5), (2, 1, 4, 5)], ids=str)
def test_bias_act_with_scale_and_noise_has_right_derivatives(act, noise_size):
    sizes = (2, 2, 4, 5), (2,), (2, 2), noise_size
    inputs = [torch.randn(size, dtype=torch.double, requires_grad=True) for size in sizes]

    def function(x, bias, scale, noise):
        return bias_act(x, bias, scale=scale, noise=noise, act=act, gain=1.5, clamp=1.1)

    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize("act", ["linear", "relu", "lrelu"])
@pytest.mark.parametrize("clamp", [None, 0.8])
@pytest.mark.parametrize("channels", [1, 3, 37])
def test_bias_act_on_a_cpu_is_its_twin_with_all_derivatives(act, clamp, channels):
    draw = torch.Generator().manual_seed(channels)
    sizes = (2, channels, 6, 5), (channels,), (2, channels), (6, 5)
    inputs = [torch.randn(size, generator=draw) for size in sizes]
    inputs[0] = inputs[0].contiguous(memory_format=torch.channels_last)
    weight = torch.randn(sizes[0], generator=draw)

    def derivatives(function):
        x, bias, scale, noise = leaves = [part.clone().requires_grad_() for part in inputs]
        y = function(x, bias, scale=scale, noise=noise, act=act, gain=1.5, clamp=clamp)
        first = torch.autograd.grad((y.square() * weight).mean(), leaves, create_graph=True)
        second = torch.autograd.grad(torch.stack([part.square().mean() for part in first]).sum(), leaves)
        return y, *first, *second

    for found, wanted in zip(derivatives(bias_act), derivatives(bias_act_reference), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_bias_act_takes_vectors_in_any_order_of_memory():
    x, bias = torch.randn(5, 4).t().requires_grad_(), torch.randn(5)
    found, wanted = (function(x, bias, act="lrelu") for function in (bias_act, bias_act_reference))
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(*(torch.autograd.grad(y.square().sum(), x)[0] for y in (found, wanted)))


KERNELS = {
    "none": None,
    "square": make_filter([1, 3, 4, 1]),
    "separable": make_filter([1, 2, 3], separable=True),
}


@pytest.mark.parametrize(("kernel", "up", "down"), [("none", 2, 1), ("square", 1, 2), ("separable", 2, 1)])
def test_upfirdn2d_is_a_proper_operator(kernel, up, down):
    x = torch.randn(2, 3, 8, 6, requires_grad=True)
    arguments = (x, KERNELS[kernel], [up, up], [down, down], [2, 1, 0, -1], True, 4.0)
    opcheck(torch.ops.styleavatar3d.upfirdn2d.default, arguments)


@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (3, 2)])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("padding", [[2, 1, 0, -1], [5, 6, 5, 6], [-1, -1, 3, 0]], ids=str)
def test_upfirdn2d_is_its_twin_in_either_layout(up, down, kernel, padding):
    x = torch.randn(2, 3, 8, 6)
    options = {"up": up, "down": down, "padding": padding, "flip": True, "gain": 4.0}
    wanted = upfirdn2d_reference(x, KERNELS[kernel], **options)
    for layout in LAYOUTS:
        found = upfirdn2d(x.contiguous(memory_format=layout), KERNELS[kernel], **options)
        torch.testing.assert_close(found, wanted)
        assert found.is_contiguous(memory_format=layout)


def test_what_is_unknown_is_refused():
    with pytest.raises(StyleAvatarError, match="no such activation"):
        bias_act(torch.zeros(1, 1), act="gelu")
    with pytest.raises(StyleAvatarError, match="no such resize mode"):
        resize(torch.zeros(1, 1, 4, 4), 2, "bicubic")
    with pytest.raises(StyleAvatarError, match="cannot be cut into groups"):
        minibatch_deviation(torch.zeros(6, 2, 4, 4), group=4, channels=1)
