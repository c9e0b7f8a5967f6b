"""`styleavatar3d quickstart`: the whole road in one function, from 3D heads to a page with finished avatars.

Warm-started, every stage runs for real but briefly, from the shipped weights, and the avatars come from the shipped
ones. From scratch, every model is trained here and feeds the next stage. The same command resumes either.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from styleavatar3d.assets import assets
from styleavatar3d.config import Config, load_config
from styleavatar3d.errors import StyleAvatarError

PROMPTS = (
    "a blue alien with round glasses, clay style",
    "cartoon style young woman with long red hair and a green shirt",
    "marble style old man with a full beard",
    "cel style smiling man with a pink mohawk and sunglasses",
)
LEGS = ("guidance", "miniature", "synthesis", "generator", "style space", "avatars", "page")
PARTS = ("diffusion", "clip", "judge", "estimators", "generator", "stylespace")
SHIPPED = "data/miniature"


class Road:
    """The run's folder, and what each leg took: `road.json`, so that a resumed run tells its true times."""

    def __init__(self, out: str, from_scratch: bool, configs: str = "miniature"):
        self.out, self.from_scratch = Path(out), from_scratch
        self.configs = configs if from_scratch else "quickstart"
        self.start = "" if from_scratch else ", from the shipped weights"
        self.models = self.out / "models" if from_scratch else assets() / SHIPPED
        self.out.mkdir(parents=True, exist_ok=True)
        self._file = self.out / "road.json"
        self.legs: dict[str, dict[str, Any]] = json.loads(self._file.read_text()) if self._file.exists() else {}

    @contextmanager
    def leg(self, name: str, origin: str) -> Iterator[None]:
        """Announce a leg and time it. A leg that goes on after a stop adds to its time; one already done keeps it."""
        print(f"[{LEGS.index(name) + 1}/{len(LEGS)}] {name}: {origin}", file=sys.stderr, flush=True)
        start, before, done = time.monotonic(), self.legs.get(name, {"seconds": 0.0, "done": False}), False
        try:
            yield
            done = True
        finally:
            now = time.monotonic() - start
            seconds = max(before["seconds"], now) if before["done"] else before["seconds"] + now
            self.legs[name] = {"origin": origin, "seconds": round(seconds, 2), "done": done}
            self._file.write_text(json.dumps(self.legs, indent=1))
            print(f"      {name}: {seconds:.1f} s", file=sys.stderr, flush=True)

    def config(self, cls: type[Config], stage: str, places: dict[str, Path]) -> Config:
        """The recipe of a stage, reading from and writing to this run."""
        name = f"{stage}/{self.configs}" if self.from_scratch else f"{self.configs}/{stage}"
        return load_config(cls, name, [f"--{key}={place}" for key, place in places.items()])

    def settle(self, part: str, weights: str | Path) -> None:
        """Put freshly trained weights where the next stages look for them."""
        shutil.copytree(weights, self.models / part, dirs_exist_ok=True)


def quickstart(out: str, from_scratch: bool, configs: str = "miniature") -> dict[str, Any]:
    """Run every stage in order. Returns where everything is and the commands that go on from here."""
    road = Road(out, from_scratch, configs)
    check_weights(road)
    draw_guidance(road)
    train_miniature(road)
    synthesize(road)
    train_generator(road)
    train_stylespace(road)
    page = write_page(road, make_avatars(road))
    return {"page": str(page), "models": str(road.models), "seconds": round(total_seconds(road), 1)} | commands(road)


def check_weights(road: Road) -> None:
    missing = [part for part in PARTS if not (road.models / part).is_dir()]
    if missing and not road.from_scratch:
        raise StyleAvatarError(
            "shipped weights are missing",
            got=f"no {', '.join(missing)} in {road.models}",
            remedy="fetch the repository whole, or use --from-scratch",
        )


def draw_guidance(road: Road) -> None:
    from styleavatar3d.miniature.sheet import write_guidance

    with road.leg("guidance", "figures with depth and key points, drawn here"):
        write_guidance(str(road.out / "guidance"), count=4, seed=3)


def train_miniature(road: Road) -> None:
    """The little world's diffusion model and encoder: minutes to an hour, so warm starts take the shipped ones."""
    if not road.from_scratch:
        with road.leg("miniature", "diffusion model and encoder as shipped"):
            return
    from styleavatar3d.miniature.train import MiniatureConfig, train

    with road.leg("miniature", "diffusion model and encoder, trained here"):
        train(road.config(MiniatureConfig, "miniature", {"run.out": road.out / "miniature"}))
        for part in ("diffusion", "clip", "judge", "estimators"):
            road.settle(part, road.out / "miniature" / "weights" / part)


def synthesize(road: Road) -> None:
    from styleavatar3d.synthesis.synthesize import SynthesisConfig, run

    places = {"run.out": shards(road), "model.folder": road.models / "diffusion"}
    config = road.config(SynthesisConfig, "synthesis", places)
    with road.leg("synthesis", f"{config.data.count} pictures, made here"):
        run(config)


def train_generator(road: Road) -> None:
    from styleavatar3d.gan.train import GanConfig, train

    out = road.out / "generator"
    config = road.config(GanConfig, "gan", {"run.out": out, "data.shards": shards(road)})
    with road.leg("generator", f"{config.train.schedule.kimg:g} thousand pictures of training here{road.start}"):
        train(config)
        if road.from_scratch:
            road.settle("generator", out / "weights")


def train_stylespace(road: Road) -> None:
    from styleavatar3d.stylespace.train import StyleSpaceConfig, train

    out = road.out / "stylespace"
    models = {"data.generator": road.models / "generator", "data.clip": road.models / "clip"}
    config = road.config(StyleSpaceConfig, "stylespace", {"run.out": out, "data.codes": out / "codes", **models})
    with road.leg("style space", f"{config.train.kpairs:g} thousand pairs of training here{road.start}"):
        train(config)
        if road.from_scratch:
            road.settle("stylespace", out / "weights")


def make_avatars(road: Road) -> list[dict[str, Any]]:
    """Four avatars from prompts, two from pictures: renders of figures that no model has seen."""
    from styleavatar3d.avatar.generate import generate

    source = "trained here" if road.from_scratch else "as shipped"
    with road.leg("avatars", f"four prompts and two pictures, by the weights {source}"):
        made = generate(
            prompts=PROMPTS, images=held_out_pictures(road), seeds=range(8), out=str(road.out / "avatars"),
            model=str(road.models), mesh=128, size=128, frames=36,
        )  # fmt: skip
    return made["avatars"]


def held_out_pictures(road: Road) -> list[str]:
    """Two front renders from a population of figures that is never trained on."""
    from styleavatar3d.camera.cameras import Camera
    from styleavatar3d.figures.dress import build_figure
    from styleavatar3d.figures.looks import STYLES, draw_look
    from styleavatar3d.miniature.renders import render_view
    from styleavatar3d.runtime.media import png

    files = []
    for index in (1, 4):
        view = render_view(build_figure(draw_look(90_001, index)), STYLES[index % 2], Camera.orbit(15.0, 5.0), 128)
        files.append(road.out / f"picture-{len(files) + 1}.png")
        files[-1].write_bytes(png(view.image.permute(2, 0, 1)))
    return [str(file) for file in files]


def write_page(road: Road, avatars: list[dict[str, Any]]) -> Path:
    from styleavatar3d.avatar import page

    asked = [entry for entry in avatars if "prompt" in entry or "image" in entry]
    with road.leg("page", "this page"):
        return page.write_page(
            road.out / "index.html",
            page.QuickstartPage(
                guidance=guidance_cards(road),
                views=view_cards(road),
                samples=[page.Card([Path(e["folder"]) / "turntable.mp4"]) for e in avatars if e not in asked],
                avatars=[avatar_card(entry) for entry in asked],
                glb=Path(asked[0]["folder"]) / "avatar.glb",
                timings=[page.Timing(name, leg["seconds"], leg["origin"]) for name, leg in road.legs.items()],
                commands=[page.Command(name, line) for name, line in commands(road).items()],
                summary=what_ran(road),
            ),
        )


def guidance_cards(road: Road) -> list[Any]:
    from styleavatar3d.avatar.page import Card
    from styleavatar3d.figures.looks import STYLES

    folder = road.out / "guidance"
    kinds = ("figure", "depth", "keypoints")
    return [Card([folder / f"{i:03d}-{kind}.png" for kind in kinds], STYLES[i % len(STYLES)]) for i in range(4)]


def view_cards(road: Road, count: int = 8) -> list[Any]:
    from styleavatar3d.avatar.page import Card
    from styleavatar3d.shards.loader import ShardDataset

    dataset = ShardDataset(str(shards(road)))
    cards = []
    for i in range(count):
        place = i * (len(dataset) // count + 1) % len(dataset)  # styles take turns: no step of a multiple of them
        pose, sample = dataset.guidance(place)["depth"], dataset[place]
        cards.append(Card([pose, sample["image"]], text=sample["json"]["prompt"]))
    return cards


def avatar_card(entry: dict[str, Any]) -> Any:
    from styleavatar3d.avatar.page import Card

    film = Path(entry["folder"]) / "turntable.mp4"
    if "image" in entry:
        return Card([Path(entry["image"]), film], "from a picture", "left the picture, right the avatar")
    return Card([film], entry["prompt"])


def what_ran(road: Road) -> str:
    if road.from_scratch:
        return "Every model on this page was trained on this machine, from nothing but the parametric heads."
    return (
        "The diffusion model, the encoder, the generator and the style prior were shipped with the project; see the "
        "README for how long each was trained. The synthesis ran here, and the two trainings went on from the shipped "
        "weights for a moment, to show that they run; the avatars come from the weights as shipped."
    )


def commands(road: Road) -> dict[str, str]:
    """What to type next: go on, look again, export, ask for another avatar."""
    first = next(iter(sorted((road.out / "avatars").glob("*/avatar.safetensors"))), road.out / "avatars")
    scratch = f" --from-scratch --configs {road.configs}" if road.from_scratch else ""
    model = f" --model {road.models}" if road.from_scratch else ""
    return {
        "resume": f"styleavatar3d quickstart --out {road.out}{scratch}",
        "view": f"styleavatar3d view {first.parent / 'avatar.glb'}",
        "export": f"styleavatar3d export {first} {first.parent / 'avatar.obj'}{model}",
        "generate": f'styleavatar3d generate --prompt "{PROMPTS[0]}"{model}',
    }


def shards(road: Road) -> Path:
    return road.out / "synthesis"


def total_seconds(road: Road) -> float:
    return sum(leg["seconds"] for leg in road.legs.values())
