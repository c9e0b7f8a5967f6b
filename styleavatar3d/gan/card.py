"""The model card that travels with a generator's weights."""

import json
from collections.abc import Sequence

from styleavatar3d.config import config_hash
from styleavatar3d.gan.config import GanConfig


def model_card(config: GanConfig, images: int, licences: Sequence[str]) -> str:
    """What the weights are, what they learned from and under which licences, as a README with a metadata head.

    `licences` are those of the training pictures: a model trained on outputs of another inherits its conditions.
    """
    model, size = config.model.generator, config.model.generator.image_resolution
    chain = ", ".join(licences) or "unknown: the pictures were given as tensors"
    return f"""---
library_name: styleavatar3d
tags: [3d-gan, avatar, machine-made]
licences_of_training_data: {json.dumps(list(licences), ensure_ascii=False)}
images_seen: {images}
seed: {config.run.seed}
config_hash: {config_hash(config)}
---
# 3D avatar generator, {size} px

A 3D-aware GAN (planes of depths {model.depths}, box of {model.box} world units): its moving average after {images}
images. It learned from the pictures in `{config.data.shards}`. Their licences: {chain}.

`Generator.from_pretrained(folder)` of `styleavatar3d.gan.generator` loads `model.safetensors` by `config.json`.
"""
