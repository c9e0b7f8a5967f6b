"""How well the miniature's gates tell right pictures from wrong ones, and what they do to what the model draws.

Right are held-out renders; wrong are the same renders after one mistake each. `docs/gates.md` quotes this table, and
the thresholds of `configs/synthesis/miniature.yaml` were read off it.
"""

from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional as F

from styleavatar3d.assets import assets
from styleavatar3d.bench.ablation import Row, Scenes, draw, pose
from styleavatar3d.bench.held_out import show, signed
from styleavatar3d.camera.cameras import view_name
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.looks import visible_attributes
from styleavatar3d.metrics.alignment import faces_at_the_back, scores_of, yaw_errors
from styleavatar3d.metrics.judge import Judge
from styleavatar3d.runtime.random import generator
from styleavatar3d.shards.schema import Figure, Record
from styleavatar3d.shards.writer import Sample
from styleavatar3d.synthesis.gates import MINIATURE, Gatekeeper, GatesConfig
from styleavatar3d.synthesis.safety import Safety

_QUANTILES = (0.01, 0.03, 0.1, 0.5, 0.9, 0.97, 0.99)


def run(
    count: int = 300, seed: int = 0, model: str | None = None, device: str = "auto", gates: GatesConfig = MINIATURE
) -> dict[str, Any]:
    """Print the share that passes each gate, of right, wrong and synthesised pictures; return it with the quantiles.

    Args:
        count: pictures of each sort
        seed: of the figures, cameras and noise
        model: folder with diffusion/, estimators/ and judge/; the shipped one by default
        device: where pictures are drawn
        gates: the thresholds
    """
    if count < 4:
        raise StyleAvatarError("too few pictures to tell gates by", got=count, expected="--count of at least 4")
    from styleavatar3d.synthesis.pipeline import Synthesizer

    folder = Path(model) if model else assets() / "data" / "miniature"
    gates = gates.model_copy(update={"weights": str(folder / "estimators")})
    keeper, scenes = Gatekeeper.open(gates, Safety(None)), Scenes.draw(range(count), seed)
    posed, records = pose(scenes), _records(scenes)
    samples = [Sample(*parts, {}) for parts in zip(records, posed.renders, posed.masks, strict=True)]
    synthesizer = Synthesizer.from_pretrained(folder / "diffusion", device)
    made = draw(synthesizer, scenes, Row("hybrid", True), posed.guidance)
    sorts = {"renders": samples, **mistakes(samples, seed), "synthesised": _with_images(samples, made)}
    judged = {name: list(keeper.judge(some, [])) for name, some in sorts.items()}
    rows = [_row(name, some, gates) for name, some in judged.items()]
    show(f"gates: shares of {count} pictures that pass", rows)
    accepted = torch.tensor([sample.record.verdict == "accepted" for sample in judged["synthesised"]])
    second = _by_the_judge(Judge.from_pretrained(folder / "judge"), made, scenes, accepted)
    show("what was synthesised, by the judge", second)
    quantiles = {name: _quantiles(judged[name]) for name in ("renders", "synthesised")}
    return {"table": "gates", "count": count, "seed": seed, "thresholds": gates.asked, "rows": rows,
            "judge": second, "quantiles": quantiles}  # fmt: skip


def mistakes(samples: list[Sample], seed: int) -> dict[str, list[Sample]]:
    """The samples after one mistake each; the last holds every picture twice."""
    images = torch.stack([cast(Tensor, sample.image) for sample in samples])
    size = images.shape[-1]
    order = torch.randperm(len(samples), generator=generator(seed, "gates")).tolist()
    swapped = [samples[place].record for place in order]
    turns = (60 + 240 * torch.rand(len(samples), generator=generator(seed, "turn"))).tolist()
    turned = [
        sample._replace(record=sample.record.model_copy(update={"yaw": (sample.record.yaw + turn + 180) % 360 - 180}))
        for sample, turn in zip(samples, turns, strict=True)
    ]
    words = [
        sample._replace(record=sample.record.model_copy(update={"attributes": other.attributes, "style": other.style}))
        for sample, other in zip(samples, swapped, strict=True)
    ]
    masks = [sample._replace(mask=samples[place].mask) for sample, place in zip(samples, order, strict=True)]
    small = F.interpolate(images.float(), scale_factor=0.75, mode="bilinear", antialias=True).round().to(torch.uint8)
    less = images[:, :, :1, :1].repeat(1, 1, size, size)
    start = (size - small.shape[-1]) // 2
    less[:, :, -small.shape[-1] :, start : start + small.shape[-1]] = small
    soft = F.avg_pool2d(F.pad(images.float(), (2, 2, 2, 2), mode="replicate"), 5, 1)
    grain = 3 * torch.randn(images.shape, generator=generator(seed, "grain"))
    copies = (images.float() + grain).round().clamp(0, 255).to(torch.uint8)
    return {
        "turned by 60 to 180 degrees": turned,
        "words of another": words,
        "silhouette of another": masks,
        "three quarters of the size": _with_images(samples, less),
        "blurred over 5 px": _with_images(samples, soft.round().to(torch.uint8)),
        "each with a grainy copy": [*samples, *_with_images(samples, copies)],
    }


def _records(scenes: Scenes) -> list[Record]:
    records = []
    everything = zip(scenes.looks, scenes.styles, scenes.cameras, scenes.prompts(Row("hybrid", True)), strict=True)
    for index, (look, style, camera, prompt) in enumerate(everything):
        records.append(
            Record(
                index=index, attempt=0, seed=0, camera=camera.label().tolist(), yaw=camera.yaw, pitch=camera.pitch,
                prompt=prompt.text, negative=prompt.negative, kind=look.kind, style=style, view=view_name(camera.yaw),
                attributes=visible_attributes(look, style, camera.yaw), guidance=[], models=[],
                figure=Figure(id=str(index), source="data/heads.safetensors", licence="CC0-1.0"),
                gates={}, verdict="accepted", config_hash="",
            )
        )  # fmt: skip
    return records


def _with_images(samples: list[Sample], images: UInt8[Tensor, "count 3 size size"]) -> list[Sample]:
    return [sample._replace(image=image) for sample, image in zip(samples, images, strict=True)]


def _row(name: str, samples: list[Sample], gates: GatesConfig) -> dict[str, Any]:
    """The share that passes all, and of those that a gate was asked about the share that passes it."""
    row: dict[str, Any] = {"pictures": name, "all": _share([one.record.verdict == "accepted" for one in samples])}
    for gate in gates.asked:
        asked = [sample.record for sample in samples if gate in sample.record.gates]
        row[gate] = _share([not any(gate in names for names in record.refusals) for record in asked])
    return row


def _share(right: list[bool]) -> float | None:
    return round(sum(right) / len(right), 3) if right else None


def _by_the_judge(
    judge: Judge, made: UInt8[Tensor, "count 3 size size"], scenes: Scenes, accepted: Tensor
) -> list[dict[str, Any]]:
    rows = []
    for name, which in (("all", torch.ones_like(accepted)), ("accepted", accepted), ("rejected", ~accepted)):
        row: dict[str, Any] = {"synthesised": name, "count": int(which.sum())}
        if which.any():
            seen, yaw = judge.judge(signed(made[which])), scenes.yaw[which]
            asked = [one for one, wanted in zip(scenes.requests(), which.tolist(), strict=True) if wanted]
            backs, right = faces_at_the_back(seen, yaw), scores_of(seen, asked)["attributes"]
            row |= {"faces on backs": f"{backs.right} of {backs.count}", "attributes": round(right.share, 3)}
            row |= {f"yaw error, {name}": value for name, value in yaw_errors(seen, yaw).items()}
            rows.append(row)
    return rows


def _quantiles(samples: list[Sample]) -> dict[str, list[float]]:
    columns: dict[str, list[float]] = {}
    for sample in samples:
        for name, value in sample.record.gates.items():
            columns.setdefault(name, []).append(value)
    at = torch.tensor(_QUANTILES)
    return {name: [round(value, 3) for value in torch.tensor(values).quantile(at).tolist()]
            for name, values in columns.items()}  # fmt: skip
