"""From the settings and tensor shapes of an original network to our configuration of it.

What shapes tell is taken from them, so that settings need to hold only what they cannot: where rays run, how colours
are squashed, which super-resolution. Names are those of the originals' settings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from styleavatar3d.config import validate
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.gan.classic_config import ClassicConfig, Family

Shapes = Mapping[str, tuple[int, ...]]
_CROP = 0.1
"""PanoHead: world units; pyramid: share of the box. EG3D does not crop"""
_MAPPING_RATE = 0.01
_FOCAL = {"eg3d": 4.2647, "panohead": 4.2647, "pyramid": 6.5104}
"""of the views that each was trained on; labels carry their own"""
_DENSITIES = ("softplus", None)


def family_of(shapes: Shapes) -> Family:
    """The family whose names these are."""
    if not {"decoder.net.0.weight", "backbone.mapping.w_avg"} <= shapes.keys():
        raise StyleAvatarError(
            "these are not the weights of a 3D generator of the EG3D family",
            got=", ".join(list(shapes)[:4]) or "no tensors",
            expected="a state dict with backbone.mapping.w_avg, backbone.synthesis.b4.const, decoder.net.0.weight ...",
        )
    if any(name.startswith("backbone.synthesis.b3d") for name in shapes):
        return "pyramid"
    plane_channels = 3 * shapes["decoder.net.0.weight"][1]
    return "eg3d" if _dimension(shapes, "backbone.synthesis.b4.torgb.weight", 0) == plane_channels else "panohead"


def classic_config(family: Family, settings: Mapping[str, Any], shapes: Shapes) -> ClassicConfig:
    """The configuration under which our network is the original. Raises StyleAvatarError naming what does not fit."""
    found = family_of(shapes)
    if found != family:
        raise StyleAvatarError(
            "these weights are of another family", got=found, expected=family, remedy=f"use --family {found}"
        )
    rendering, mapping = _mapping(settings, "rendering_kwargs"), settings.get("mapping_kwargs") or {}
    if mapping.get("lr_multiplier", _MAPPING_RATE) != _MAPPING_RATE:
        raise StyleAvatarError(
            "this mapping network is not known here", got=mapping["lr_multiplier"], expected="lr_multiplier 0.01"
        )
    w_dim = _dimension(shapes, "backbone.mapping.fc0.weight", 0)
    label_size = shapes.get("backbone.mapping.embed.weight", (0, 0))[1]
    channels = _dimension(shapes, "decoder.net.0.weight", 1)
    widths = _widths(shapes, "backbone.synthesis.b")
    planes = _dimension(shapes, "backbone.synthesis.b4.torgb.weight", 0)
    tree = {
        "family": family,
        "z_dim": _dimension(shapes, "backbone.mapping.fc0.weight", 1) - (w_dim if label_size else 0),
        "w_dim": w_dim,
        "label_size": label_size,
        "label_scale": rendering.get("c_scale", 0),  # without it, the originals multiply the label by 0
        "label_zeroed": bool(rendering.get("c_gen_conditioning_zero", False)),
        "mapping_layers": sum(re.fullmatch(r"backbone\.mapping\.fc\d+\.weight", name) is not None for name in shapes),
        **_widest(widths),
        "clamp": settings.get("conv_clamp"),
        "plane_resolution": max(widths) * (2 if family == "pyramid" else 1),
        "plane_channels": channels,
        "grid_depth": None if family == "eg3d" else planes // (3 * channels),
        "third_plane": "zx" if family == "eg3d" else "yz",
        "decoder": _decoder(family, settings, rendering, shapes),
        "rendering": _rendering(family, rendering),
        "camera": {
            "radius": rendering.get("avg_camera_radius", 2.7),
            "pivot": rendering.get("avg_camera_pivot", (0.0, 0.0, 0.0)),
            "focal": _FOCAL[family],
        },
        "raw_layer": "torgb.weight" in shapes,
        "background": _background(shapes),
        "camera_shift": "t_mapping.fc0.weight" in shapes,
        "pose_numbers": _last_outputs(shapes, "pose_branch.net"),
        "neural_resolution": _needed(settings, "neural_rendering_resolution"),
        "image_resolution": _needed(settings, "img_resolution"),
        "super_resolution": _super_resolution(settings, rendering),
    }
    return validate(ClassicConfig, tree, source="the original's settings")


def _decoder(family: Family, settings: Mapping, rendering: Mapping, shapes: Shapes) -> dict[str, Any]:
    colors = rendering.get("decoder_activation", settings.get("decoder_activation"))
    if colors is None:  # EG3D has no other; with a to-image layer behind, the released recipes squash nothing
        colors = "sigmoid" if family == "eg3d" or "torgb.weight" not in shapes else "none"
    return {
        "width": shapes["decoder.net.0.weight"][0],
        "features": _dimension(shapes, "decoder.net.2.weight", 0) - 1,
        "colors": colors,
        "lr_multiplier": rendering.get("decoder_lr_mul", 1.0),
    }


def _rendering(family: Family, rendering: Mapping[str, Any]) -> dict[str, Any]:
    if rendering.get("clamp_mode") not in _DENSITIES:
        raise StyleAvatarError(
            "this density is not known here", got=rendering["clamp_mode"], expected="clamp_mode softplus"
        )
    if rendering.get("binarize_clouds"):
        raise StyleAvatarError("binarize_clouds is not known here", remedy="leave it out: it is for meshes only")
    box = _needed(rendering, "box_warp")
    crop = None if family == "eg3d" else rendering.get("triplane_crop", _CROP)
    return {
        "samples": (_needed(rendering, "depth_resolution"), rendering.get("depth_resolution_importance", 0)),
        "near": _needed(rendering, "ray_start"),
        "far": _needed(rendering, "ray_end"),
        "box": box,
        "disparity": bool(rendering.get("disparity_space_sampling", False)),
        "white_background": bool(rendering.get("white_back", False)),
        "crop": round(crop * box, 9) if crop and family == "pyramid" else crop or None,
        "cull": rendering.get("cull_clouds") or None,
    }


def _super_resolution(settings: Mapping[str, Any], rendering: Mapping[str, Any]) -> dict[str, Any]:
    name = str(_needed(rendering, "superresolution_module"))
    kind = re.fullmatch(r"(?:.*\.)?SuperresolutionHybrid(2X|4X|8X|8XDC)", name)
    if kind is None:
        raise StyleAvatarError(
            "this super-resolution is not known here", got=name, expected="SuperresolutionHybrid2X, 4X, 8X or 8XDC"
        )
    return {
        "module": kind[1].lower(),
        "antialias": bool(rendering.get("sr_antialias", False)),
        "noise": rendering.get("superresolution_noise_mode", "none"),
        "clamp": 256.0 if settings.get("sr_num_fp16_res", 0) else None,  # they clamp for half precision, also in single
    }


def _background(shapes: Shapes) -> dict[str, Any] | None:
    widths = _widths(shapes, "bcg_synthesis.b")
    return {"resolution": max(widths), **_widest(widths)} if widths else None


def _widths(shapes: Shapes, prefix: str) -> dict[int, int]:
    """Channels of a synthesis network at each of its resolutions."""
    names = {name: re.fullmatch(re.escape(prefix) + r"(\d+)\.conv1\.weight", name) for name in shapes}
    return {int(match[1]): shapes[name][0] for name, match in names.items() if match}


def _widest(widths: Mapping[int, int]) -> dict[str, int]:
    """The rule that gives these widths: at most `channel_max`, and `channel_base` divided by the resolution."""
    if not widths:
        raise StyleAvatarError("these weights have no backbone", expected="backbone.synthesis.b4.conv1.weight ...")
    finest = max(widths)
    return {"channel_base": finest * widths[finest], "channel_max": max(widths.values())}


def _last_outputs(shapes: Shapes, prefix: str) -> int:
    """How many numbers a stack of linear layers gives; 0 if there is none."""
    layers = [name for name in shapes if re.fullmatch(re.escape(prefix) + r"\.\d+\.weight", name)]
    return shapes[max(layers, key=lambda name: int(name.split(".")[-2]))][0] if layers else 0


def _dimension(shapes: Shapes, name: str, axis: int) -> int:
    if axis >= len(shapes.get(name, ())):
        raise StyleAvatarError(f"{name} is missing or has the wrong shape", got=shapes.get(name, "nothing"))
    return shapes[name][axis]


def _mapping(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = _needed(settings, name)
    if not isinstance(value, Mapping):
        raise StyleAvatarError(f"the setting {name} is no mapping", got=value)
    return value


def _needed(settings: Mapping[str, Any], name: str) -> Any:
    if name not in settings:
        raise StyleAvatarError(
            f"the setting {name} is missing",
            got=", ".join(list(settings)[:12]) or "no settings",
            expected="the settings with which the original was built, under their own names",
            remedy="write them into the JSON beside the weights, or name that file with --settings",
        )
    return settings[name]
