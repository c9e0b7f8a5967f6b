"""What a LoRA's training leaves: the file that every diffusers pipeline loads, what it was made of, and its card."""

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from styleavatar3d.runtime.licences import NOT_STATED
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.shards.schema import Model
from styleavatar3d.synthesis.lora_config import LoraConfig
from styleavatar3d.synthesis.lora_model import stock_weights
from styleavatar3d.synthesis.lora_pictures import Example

WEIGHTS = "pytorch_lora_weights.safetensors"


def save_lora(
    pipeline: Any, config: LoraConfig, base: Model, examples: Sequence[Example], seen: int, identity: str
) -> dict[str, Any]:
    """Publish the weights, `config.json` and the card under `weights/` of the run. Returns sha256 and bytes."""
    storage = Storage.open(f"{config.run.out}/weights")
    with TemporaryDirectory() as folder:
        type(pipeline).save_lora_weights(folder, **stock_weights(pipeline))
        data = (Path(folder) / WEIGHTS).read_bytes()
    storage.publish("config.json", json.dumps(_origin(config, base, examples, seen, identity), indent=2).encode())
    storage.publish("README.md", card(config, base, examples, seen, identity).encode())
    return {"sha256": storage.publish(WEIGHTS, data), "bytes": len(data)}


def licences(config: LoraConfig, base: Model) -> list[str]:
    """Of the base model, which a LoRA is a derivative of, and of the pictures; each once."""
    return list(dict.fromkeys([*base.licence.split(", "), config.data.licence]))


def _origin(config: LoraConfig, base: Model, examples: Sequence[Example], seen: int, identity: str) -> dict[str, Any]:
    """All that the weights come from, for programs."""
    return {
        "base_model": base.model_dump(),
        "trigger": config.data.trigger,
        "template": config.data.template,
        "rank": config.model.rank,
        "targets": config.model.targets,
        "resolution": config.data.resolution,
        "images_seen": seen,
        "steps": -(-seen // config.train.batch),
        "seed": config.run.seed,
        "config_hash": identity,
        "licences": licences(config, base),
        "pictures_licence": config.data.licence,
        "pictures": [{"file": one.name, "prompt": one.prompt, "sha256": one.digest} for one in examples],
    }


def card(config: LoraConfig, base: Model, examples: Sequence[Example], seen: int, identity: str) -> str:
    """The README: a head of metadata for machines, then what it is, how it is used and under which licences."""
    trigger, steps = config.data.trigger, -(-seen // config.train.batch)
    source = base.id if base.revision in ("local", "main") else f"{base.id} (commit {base.revision})"
    head = {
        "library_name": "diffusers", "base_model": base.id, "tags": ["lora", "text-to-image", "machine-made"],
        "instance_prompt": trigger, "licences_of_training_data": licences(config, base),
        "images_seen": seen, "steps": steps, "seed": config.run.seed, "config_hash": identity,
    }  # fmt: skip
    said = f", {config.data.licence}" if config.data.licence != NOT_STATED else "; their licence was not stated"
    lines = "\n".join(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in head.items())
    return f"""---
{lines}
---
# LoRA "{trigger}"

It teaches {source} what `{trigger}` looks like. Made by a machine from {len(examples)} pictures of
{config.data.resolution} px{said}: {steps} steps of {config.train.batch}, seed {config.run.seed},
rank {config.model.rank} on {", ".join(config.model.targets)}. A prompt it was taught with: "{examples[0].prompt}".

`pipeline.load_lora_weights(folder)` loads it into the base model with diffusers. A synthesis uses it as

```yaml
model:
  loras: {{character: {{source: {config.run.out}/weights, weight: 1.0}}}}
```

with `{trigger}` in its prompts. It is a derivative of the base model and of the pictures, and so is what is drawn with
it; their licences: {", ".join(licences(config, base))}.
"""
