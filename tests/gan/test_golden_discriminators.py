"""The ancestors' discriminators against stored logits, R1 penalties and their gradients."""

import goldens
import pytest
import torch
import torch.nn.functional as F
from goldens import gradients

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.gan.classic_config import ClassicDiscriminatorConfig
from styleavatar3d.gan.classic_discriminators import ClassicDiscriminator

SIZES = {"resolution": 32, "channel_base": 512, "channel_max": 32}
CONFIGS = {
    "discriminator_tiny": ClassicDiscriminatorConfig(family="eg3d", **SIZES),
    "discriminator_mask_v1_tiny": ClassicDiscriminatorConfig(family="panohead", mask=True, mask_tower=True, **SIZES),
    "discriminator_mask_v2_tiny": ClassicDiscriminatorConfig(family="panohead", mask=True, **SIZES),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_and_penalties(name):
    golden = goldens.load(name)
    network = ClassicDiscriminator(CONFIGS[name])
    network.load_state_dict(goldens.weights(name))
    keys = [key for key in ("image", "image_raw", "image_mask") if key in golden]
    pictures = [golden[key].clone().requires_grad_() for key in keys]
    logits = network(*pictures[:2], golden["c"], *pictures[2:])
    golden.check("logits", logits[:, None])
    to_pictures = gradients(logits, pictures, torch.ones(()), create_graph=True)
    for key, gradient in zip(keys, to_pictures, strict=True):
        golden.check(f"grad_{key}", gradient)
    squares = [gradient.square().sum((1, 2, 3)) for gradient in to_pictures]
    golden.check("r1_penalty", squares[0] + squares[1])
    if len(squares) == 3:
        golden.check("r1_penalty_mask", squares[2])
    losses = {"r1grad": (squares[0] + squares[1]).mean() / 2, "lossgrad": F.softplus(-logits).mean()}
    parameters = dict(network.named_parameters())
    for prefix, loss in losses.items():
        names = [key.removeprefix(f"{prefix}/") for key in golden.tensors if key.startswith(f"{prefix}/")]
        for key in names:
            golden.check(f"{prefix}/{key}", *gradients(loss, [parameters[key]], torch.ones(()), retain_graph=True))


def test_the_parts_of_the_plain_one():
    golden = goldens.load("discriminator_tiny")
    network = ClassicDiscriminator(CONFIGS["discriminator_tiny"])
    network.load_state_dict(goldens.weights("discriminator_tiny"))
    golden.check("label_map", network.code(golden["c"]))


def test_what_does_not_fit_is_refused():
    network = ClassicDiscriminator(CONFIGS["discriminator_mask_v2_tiny"])
    image, labels = torch.zeros(4, 3, 32, 32), torch.zeros(4, 25)
    with pytest.raises(StyleAvatarError, match="looks at masks"):
        network(image, image, labels)
    with pytest.raises(StyleAvatarError, match="another label"):
        network(image, image, labels[:, :20], image[:, :1])
    with pytest.raises(StyleAvatarError, match="cannot be cut into groups"):
        network(*(x.repeat(2, 1, 1, 1)[:6] for x in (image, image)), torch.zeros(6, 25), torch.zeros(6, 1, 32, 32))
