"""Mapping, synthesis and the pyramid's cross-plane hierarchy against stored numbers."""

import goldens
import pytest
import torch
from goldens import gradients
from safetensors.torch import load_file

from styleavatar3d.gan.hierarchy import CrossPlaneBlock, HierarchicalSynthesis, exchange
from styleavatar3d.gan.stylegan2 import MappingNetwork, SynthesisNetwork, normalize_second_moment


@pytest.fixture
def networks():
    weights = goldens.weights("stylegan2_backbone_tiny")
    mapping = MappingNetwork(64, 25, 64, layers=2)
    synthesis = SynthesisNetwork(w_dim=64, resolution=32, image_channels=24, channel_base=512, channel_max=32)
    for name, module in (("mapping", mapping), ("synthesis", synthesis)):
        part = {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
        module.load_state_dict(part)
    return mapping, synthesis


def test_mapping(networks):
    golden, (mapping, synthesis) = goldens.load("stylegan2_backbone_tiny"), networks
    w = mapping(golden["z"], golden["c"])
    codes = w[:, None].expand(-1, synthesis.slots, -1)
    golden.check("z_normalised", normalize_second_moment(golden["z"]))
    golden.check("c_embedded_normalised", normalize_second_moment(mapping.embed(golden["c"])))
    golden.check("ws", codes)
    golden.check("ws_psi07", mapping.truncate(codes, 0.7))
    golden.check("ws_psi05_cutoff4", mapping.truncate(codes, 0.5, 4))
    mapping.track_mean(w)
    golden.check("w_avg_after_update", mapping.w_avg)


def test_synthesis(networks):
    golden, (_, synthesis) = goldens.load("stylegan2_backbone_tiny"), networks
    codes = golden["ws"]
    golden.check("image_noise_none", synthesis(codes, "none"))
    golden.check("image_psi07_noise_const", synthesis(golden["ws_psi07"], "const"))
    golden.check("image_psi05_cutoff4_noise_none", synthesis(golden["ws_psi05_cutoff4"], "none"))
    first, second = synthesis(codes, "random"), synthesis(codes, "random")
    assert not torch.equal(first, second)


def test_gradients_to_latents_and_labels(networks):
    golden, (mapping, synthesis) = goldens.load("stylegan2_backbone_tiny"), networks
    z, c = golden["z"].clone().requires_grad_(), golden["c"].clone().requires_grad_()
    image = synthesis(mapping(z, c)[:, None].expand(-1, synthesis.slots, -1))
    golden.check("image_noise_const", image)
    for key, gradient in zip(("grad_z", "grad_c"), gradients(image, [z, c], golden["dy"]), strict=True):
        golden.check(key, gradient)


def test_each_slot_drives_its_own_layer(networks):
    golden, (_, synthesis) = goldens.load("stylegan2_backbone_tiny"), networks
    x = image = None
    for size, block, codes in synthesis.walk(golden["ws_distinct"]):
        x, image = block(x, image, codes)
        golden.check(f"block{size}_x", x)
        golden.check(f"block{size}_img", image)
    golden.check("image_ws_distinct_noise_const", synthesis(golden["ws_distinct"]))


def test_planes_exchange_what_they_share():
    golden = goldens.small("cross_plane")
    golden.check("exchange_out", exchange(golden["exchange_in"]))


def test_a_cross_plane_block():
    golden = goldens.small("cross_plane")
    block = CrossPlaneBlock(6, w_dim=32, resolution=8)
    prefix = "weights/"
    block.load_state_dict({k.removeprefix(prefix): v for k, v in golden.tensors.items() if k.startswith(prefix)})
    w = golden["ws"][:, -1]
    golden.check("out_noise_const", block(golden["img"], golden["prev"], w))


def test_a_hierarchy_of_two_levels():
    stored = load_file(goldens.path("cross_plane.safetensors"))
    block = CrossPlaneBlock(6, w_dim=32, resolution=8)
    block.load_state_dict(load_file(goldens.path("cross_plane_block_weights.safetensors")))
    first = block(stored["img"], None, stored["ws"][:, -1], "none")
    torch.testing.assert_close(first, stored["out_first_level_noise_none"], atol=2e-5, rtol=0)
    network = HierarchicalSynthesis(w_dim=32, resolution=8, plane_channels=6)
    network.load_state_dict(load_file(goldens.path("cross_plane_network_weights.safetensors")))
    for size, level in zip((4, 8), network.levels(stored["net_ws"]), strict=True):
        torch.testing.assert_close(level, stored[f"net_planes_from_block_{size}"], atol=2e-5, rtol=0)
