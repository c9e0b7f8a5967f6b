"""The settings of an original network, under its own names, that mean a configuration of ours."""

from typing import Any

from styleavatar3d.gan.classic_config import ClassicConfig

MODULES = {"2x": "2X", "4x": "4X", "8x": "8X", "8xdc": "8XDC"}


def original_settings(config: ClassicConfig) -> dict[str, Any]:
    rendering, sr = config.rendering, config.super_resolution
    assert sr is not None
    kwargs: dict[str, Any] = {
        "superresolution_module": f"training.superresolution.SuperresolutionHybrid{MODULES[sr.module]}",
        "superresolution_noise_mode": sr.noise,
        "sr_antialias": sr.antialias,
        "c_gen_conditioning_zero": config.label_zeroed,
        "c_scale": config.label_scale,
        "clamp_mode": "softplus",
        "decoder_lr_mul": config.decoder.lr_multiplier,
        "depth_resolution": rendering.samples[0],
        "depth_resolution_importance": rendering.samples[1],
        "ray_start": rendering.near,
        "ray_end": rendering.far,
        "box_warp": rendering.box,
        "disparity_space_sampling": rendering.disparity,
        "white_back": rendering.white_background,
        "avg_camera_radius": config.camera.radius,
        "avg_camera_pivot": list(config.camera.pivot),
    }
    if config.family != "eg3d":
        kwargs["decoder_activation"] = config.decoder.colors
    return {
        "z_dim": config.z_dim,
        "c_dim": config.label_size,
        "w_dim": config.w_dim,
        "img_resolution": config.image_resolution,
        "img_channels": 3,
        "mapping_kwargs": {"num_layers": config.mapping_layers},
        "channel_base": config.channel_base,
        "channel_max": config.channel_max,
        "conv_clamp": config.clamp,
        "sr_num_fp16_res": 4 if sr.clamp else 0,
        "rendering_kwargs": kwargs,
        "neural_rendering_resolution": config.neural_resolution,
    }
