"""Does a LoRA learn a style from ten pictures? A two-tone style that the little world does not have, and its measure.

The figures, cameras and light are the little world's, the paint is not: what is dark turns violet, what is lit turns
mint, what is seen from the side glows pink. Ten renders of it train a LoRA by `configs/lora/miniature.yaml`; then
held-out figures are synthesised with the trigger in their prompts, with and without the LoRA, and compared with
renders of the same figures in that style.
"""

from typing import Any, NamedTuple

import torch
import yaml
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from styleavatar3d.assets import assets
from styleavatar3d.bench.held_out import HELD_OUT, show, signed
from styleavatar3d.camera.cameras import yaw_pitch
from styleavatar3d.config import load_config
from styleavatar3d.encoders.clip import ClipEncoder
from styleavatar3d.figures.anatomy import ramp
from styleavatar3d.figures.dress import build_figure
from styleavatar3d.figures.looks import Look, draw_look
from styleavatar3d.metrics.alignment import yaw_errors
from styleavatar3d.metrics.distribution import frechet_distance
from styleavatar3d.metrics.judge import Judge
from styleavatar3d.miniature.renders import RenderedView, draw_cameras, render_views
from styleavatar3d.runtime.media import grid, png
from styleavatar3d.runtime.random import key
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.synthesis.lora import LoraConfig, train
from styleavatar3d.synthesis.pipeline import PipelineConfig, Synthesizer
from styleavatar3d.synthesis.prompts import Prompt, compose

OUT = "runs/bench/lora"
TAUGHT, ASKED = 10, 40
STEPS, SCALE = 10, 2.0
VIOLET, MINT, PINK = (0.17, 0.05, 0.36), (0.42, 1.0, 0.80), (1.0, 0.25, 0.62)


class Shown(NamedTuple):
    """Pictures of the unknown style, and all that made them."""

    images: UInt8[Tensor, "count 3 64 64"]
    inside: Bool[Tensor, "count 64 64"]
    guides: dict[str, UInt8[Tensor, "count 64 64 3"]]
    yaw: Float[Tensor, "count"]
    views: list[tuple[Look, float, float]]
    """look, yaw and pitch in degrees"""

    def prompts(self, style: str) -> list[Prompt]:
        return [compose(look, style, yaw, pitch) for look, yaw, pitch in self.views]


def run(out: str = OUT, images: int = 0, asked: int = ASKED) -> dict[str, Any]:
    """Draw the pictures, train on them (or go on), synthesise, measure, print; `images` and `asked` shorten it.

    "distance": of what is synthesised to the held-out renders, by the colours of the figures (grey levels) and by the
    tiny CLIP; "ratio": how many times nearer the LoRA brings it; "floor": between the ten pictures and those renders.
    """
    overrides = ["--run.out", out, "--data.pictures", f"{out}/pictures", "--data.captions", f"{out}/captions.yaml"]
    overrides += ["--train.images", str(images)] if images else []
    config = load_config(LoraConfig, "lora/miniature", overrides)
    taught, asked_for = render(TAUGHT, config.run.seed), render(asked, config.run.seed + HELD_OUT)
    write_pictures(taught, Storage.open(out))
    trained = train(config)
    source = {"character": {"source": trained["out"]}}
    synthesizer = Synthesizer.load(
        PipelineConfig.model_validate({"folder": config.model.folder, "loras": source, "dtype": "float32"})
    )
    made = {"with": synthesize(synthesizer, asked_for, config)}
    synthesizer.use_loras({})
    made["without"] = synthesize(synthesizer, asked_for, config)
    rows = measure(taught, asked_for, made)
    sheet = torch.cat([taught.images, *(each[:10] for each in (asked_for.images, made["without"], made["with"]))])
    Storage.open(out).publish("compared.png", png(grid(sheet, TAUGHT, 2)))
    show(f"a style from {TAUGHT} pictures: {trained['images']} seen; {asked} held-out figures", rows)
    return {"table": "lora", "torch": torch.__version__, "images": trained["images"], "out": out, "rows": rows}


def render(count: int, seed: int) -> Shown:
    """Figures 0 .. count - 1 of the population `seed`, each from one side, in the unknown style."""
    looks, labels = [draw_look(seed, index) for index in range(count)], draw_cameras(seed, 0, count)
    views = [render_views(build_figure(look), "toy", label[None])[0] for look, label in zip(looks, labels, strict=True)]
    yaw, pitch = yaw_pitch(labels)
    guides = {kind: torch.stack([view.guidance.pictures[kind] for view in views]) for kind in ("depth", "keypoints")}
    return Shown(
        torch.stack([two_tone(view) for view in views]),
        torch.stack([view.mask > 250 for view in views]),
        guides,
        yaw,
        list(zip(looks, yaw.tolist(), pitch.tolist(), strict=True)),
    )


def two_tone(view: RenderedView) -> UInt8[Tensor, "3 size size"]:
    """The unknown style, from the light and the normals of a plastic toy."""
    color, share = view.image.float() / 255, view.mask[..., None].float() / 255
    tone = color.new_tensor
    lit = ramp(color.mean(-1), 0.42, 0.50)[..., None]
    glow = ramp(view.normals[..., 0].abs(), 0.72, 0.86)[..., None]
    painted = tone(VIOLET) + lit * (tone(MINT) - tone(VIOLET))
    painted = painted + glow * (tone(PINK) - painted)
    return (255 * (share * painted + (1 - share) * color)).round().to(torch.uint8).movedim(-1, 0)


def write_pictures(taught: Shown, storage: Storage) -> None:
    """The pictures as files, and what is said of each: everything but the style."""
    said = [compose(look, "", yaw, pitch, drop=("style",)).text for look, yaw, pitch in taught.views]
    for index, image in enumerate(taught.images):
        storage.publish(f"pictures/{index:02d}.png", png(image))
    storage.publish("captions.yaml", yaml.safe_dump({f"{i:02d}.png": text for i, text in enumerate(said)}).encode())


def synthesize(synthesizer: Synthesizer, shown: Shown, config: LoraConfig) -> UInt8[Tensor, "count 3 64 64"]:
    """The same figures from the same sides, drawn by the diffusion model for prompts that say the trigger."""
    texts, negatives = zip(*shown.prompts(config.data.trigger), strict=True)
    seeds = [key(config.run.seed, "bench lora", index) for index in range(len(texts))]
    return synthesizer.generate(texts, negatives, shown.guides, seeds, STEPS, SCALE).movedim(-1, 1)


def measure(taught: Shown, asked: Shown, made: dict[str, Tensor]) -> list[dict[str, Any]]:
    """Distances to the renders of the style and yaw errors, a row each."""
    clip = ClipEncoder.from_pretrained(assets() / "data/miniature/clip")
    judge = Judge.from_pretrained(assets() / "data/miniature/judge")

    def colours(images: Tensor, inside: Tensor) -> Tensor:
        return images.movedim(1, -1)[inside].float()

    def seen(images: Tensor, _: Tensor) -> Tensor:
        return clip.images(signed(images))

    rows = []
    for name, features in (("colours", colours), ("CLIP", seen)):
        true = features(asked.images, asked.inside)
        far = {way: frechet_distance(true, features(images, asked.inside)) ** 0.5 for way, images in made.items()}
        floor = frechet_distance(true, features(taught.images, taught.inside)) ** 0.5
        ratio = round(far["without"] / far["with"], 2)
        rows.append({"measured": f"distance of {name}", **rounded(far), "ratio": ratio, "floor": round(floor, 3)})
    turned = {way: yaw_errors(judge.judge(signed(images)), asked.yaw)["median"] for way, images in made.items()}
    of_renders = yaw_errors(judge.judge(signed(asked.images)), asked.yaw)["median"]
    rows.append({"measured": "median yaw error", **turned, "ratio": None, "floor": of_renders})
    return rows


def rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in values.items()}
