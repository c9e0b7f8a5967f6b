"""What a synthesis will take, before it is begun: pictures, shards, bytes, hours, dollars, requests and licences.

Nothing is fetched and no model is loaded, unless `plan.measure` asks for it: then one small shard is made on this
machine by the unit of work itself, and the profile is kept for the next plan of the same model on the same device.
"""

from __future__ import annotations

import math
import os
from typing import Any

from pydantic import Field

from styleavatar3d.config import Strict
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.runtime.licences import CARD, UNVERIFIED, Known, explain, known_licence, stated_licences
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.synthesis.measure import Measured, measure, recall
from styleavatar3d.synthesis.profiles import (
    Device,
    Drawing,
    find_device,
    host_seconds,
    picture_bytes,
    profiles,
    seconds_per_picture,
    shard_bytes,
)
from styleavatar3d.synthesis.scale import Job, load, record_bytes, requests, wall_seconds, workers_for
from styleavatar3d.synthesis.scenes import HEADS_LICENCE, figure_source
from styleavatar3d.synthesis.sources import CONTROLNETS, Source
from styleavatar3d.synthesis.synthesize import SynthesisConfig
from styleavatar3d.synthesis.vocabulary import StyleModel, load_vocabulary

SCALE = (1, 8, 64, 256, 1000)
"""numbers of workers that every plan is tried with"""
MINIATURE, SHIPPED = "miniature", "data/miniature/diffusion"


class PlanOptions(Strict):
    """How the plan is reckoned; the work itself is said by the other sections."""

    device: str = "auto"
    """a name of data/profiles.yaml; auto: what was measured here, else this machine's, else an A100"""
    workers: int = Field(default=0, ge=0)
    """0: those of the fleet section"""
    deadline_hours: float | None = Field(default=None, gt=0)
    """also say how many workers end by then"""
    dollars_per_hour: float | None = Field(default=None, ge=0)
    """of one device; by default the table's assumption"""
    redraws: float = Field(default=0.0, ge=0)
    """pictures that a gate rejects and that are drawn again, per picture; a measured profile has its own in it"""
    measure: bool = False
    """make a small shard here and keep its profile"""


class PlanConfig(SynthesisConfig):
    """Any synthesis config, with a section `plan`."""

    plan: PlanOptions = PlanOptions()


def plan(config: PlanConfig) -> dict[str, Any]:
    """What `config` takes. Raises StyleAvatarError for a device or a model of which nothing is known."""
    options = config.plan
    measured = measure(config) if options.measure else recall(config) if options.device == "auto" else None
    name, device = _device(config, measured)
    seconds, source = _seconds(config, device, measured)
    job = _job(config, device, seconds if measured else seconds * (1 + options.redraws), measured)
    workers = options.workers or config.fleet.workers
    limits, prices = profiles().limits, profiles().prices
    dollars = device.dollars if options.dollars_per_hour is None else options.dollars_per_hour
    row = load(job, workers, limits)
    asked = requests(job, limits)
    store = job.total_bytes / 1e9 * prices.gigabyte_month
    calls = asked["put"] / 1e3 * prices.thousand_puts + asked["get"] / 1e3 * prices.thousand_gets
    result: dict[str, Any] = {
        "pictures": job.pictures,
        "shards": job.shards,
        "bytes": job.total_bytes,
        "bytes_per_picture": round(job.shard_bytes / min(job.shard_size, job.pictures)),
        "manifest_bytes": job.shards * record_bytes(job),
        "requests": asked,
        "device": name,
        "profile": source,
        "seconds_per_picture": float(f"{seconds:.4g}"),
        "gpu_hours": row["device_hours"] if device.unit == "GPU" else 0.0,
        "device_hours": row["device_hours"],
        "device_unit": device.unit,
        "workers": workers,
        "hours": row["hours"],
        "cost": {
            "compute_dollars": round(row["device_hours"] * dollars, 2),
            "storage_dollars_a_month": round(store, 2),
            "request_dollars": round(calls, 2),
            "assumed_dollars_an_hour": dollars,
        },
        "licences": licences(config),
        "warnings": row["warnings"] + _warnings(config, device),
        "scale": [load(job, workers, limits) for workers in SCALE],
    }
    if options.deadline_hours is not None:
        result["deadline"] = _deadline(job, options.deadline_hours, dollars)
    return result


def licences(config: SynthesisConfig) -> list[dict[str, Any]]:
    """Every network and figure that takes part, its licence, where that is known from, and what it means for models
    trained on the pictures."""
    base = Source(config.model.folder)
    found = [(source.name, known) for source in _sources(config) for known in _stated(source, base)]
    found += [(model.id, Known(model.licence, "the prompts file")) for model in _style_models(config)]
    figures = {one.source: Known(one.licence, "its file") for one in map(figure_source, config.data.figures)}
    found += (figures or {"the parametric heads": Known(HEADS_LICENCE, "this project")}).items()
    return [{"of": name, **explain(known.licence)._asdict(), "source": known.source} for name, known in found]


def _sources(config: SynthesisConfig) -> list[Source]:
    """Of the pipeline, the ControlNets that are used, LoRAs, embeddings, and what judges the pictures."""
    base, used = Source(config.model.folder), {one.kind for one in config.sample.guidance}
    controlnets = [Source(name) for kind, name in config.model.controlnets.items() if kind in used]
    if not config.model.controlnets and (here := base.local()):
        controlnets = [Source(str(path)) for path in sorted((here / CONTROLNETS).glob("*")) if path.name in used]
    small = [lora.source for lora in config.model.loras.values()] + list(config.model.embeddings.values())
    judges = filter(None, (config.gates.weights, config.safety.classifier))
    return [base, *controlnets, *map(Source, (*small, *judges))]


def _style_models(config: SynthesisConfig) -> list[StyleModel]:
    """The networks made for the styles that are drawn, where the config asks for such."""
    if config.prompts is None or config.prompts.style_models is None:
        return []
    styles = load_vocabulary(config.prompts).styles.values()
    family = config.prompts.style_models
    return [style.models[family] for style in styles if style.weight and family in style.models]


def _stated(source: Source, base: Source) -> list[Known]:
    """As the card beside local weights says (or that of the pipeline they lie in), else as known of the hub."""
    if (path := source.local()) is None:
        return [known_licence(source.name)]
    folder = path if path.is_dir() else path.parent
    inside = (home := base.local()) is not None and home in folder.parents
    return [Known(stated, CARD) for stated in stated_licences(Storage.open(home if inside and home else folder))]


def _device(config: PlanConfig, measured: Measured | None) -> tuple[str, Device]:
    """The device and its table entry; that of a measured one serves for its price."""
    if config.plan.device != "auto":
        return find_device(config.plan.device)
    name = measured.device if measured else "cpu" if _family(config) in ("", MINIATURE) else "a100-80gb"
    try:
        return find_device(name)
    except StyleAvatarError:
        if measured is None:
            raise
        return name, Device(rate={1.0: 1.0}, source="measured", note="no price is known", dollars=0.0)


def _seconds(config: PlanConfig, device: Device, measured: Measured | None) -> tuple[float, dict[str, Any]]:
    """Seconds a picture takes of a device, and where that is known from."""
    if measured:
        return measured.seconds, {"source": "measured", "note": f"here, {measured.pictures} pictures, {measured.when}"}
    sample, scale = config.sample, config.data.resolution
    drawing = Drawing(
        _family(config), scale, sample.steps, [one.end - one.start for one in sample.guidance],
        sample.scale > 1, sample.batch,
    )  # fmt: skip
    networks = seconds_per_picture(drawing, device)
    if sample.again:
        first = seconds_per_picture(drawing._replace(side=sample.again.size or scale), device)
        networks = first + seconds_per_picture(
            drawing._replace(steps=math.ceil(sample.steps * sample.again.strength)), device
        )
    own = host_seconds(scale, encoding=device.unit == "core")
    reckoned = "TFLOP of these networks over the rate of the device, and the guidance drawn by one core"
    known = {"source": device.source, "note": device.note, "reckoned": reckoned} | (
        {"where": device.where} if device.where else {}
    )
    return networks + own, known


def _family(config: SynthesisConfig) -> str:
    return config.model.family or (MINIATURE if config.model.folder == SHIPPED else "")


def _job(config: PlanConfig, device: Device, seconds: float, measured: Measured | None) -> Job:
    data = config.data
    kinds = [one.kind for one in config.sample.guidance] if data.keep_guidance else []
    image = "image.jpg" if data.files.image == "jpeg" else "image.png"
    each = measured.bytes if measured else picture_bytes(data.resolution, image, kinds, _family(config) == MINIATURE)
    size = min(data.shard_size, data.count)
    return Job(
        pictures=data.count,
        shard_size=size,
        shard_bytes=shard_bytes(size, each),
        parts=3 + len(kinds),
        seconds=seconds,
        startup=measured.startup if measured else device.startup,
        devices=config.fleet.gpus or 1.0,
    )


def _warnings(config: PlanConfig, device: Device) -> list[str]:
    found = []
    known = licences(config)
    unstated = [one["of"] for one in known if one["commercial"] == "not known"]
    unread = [one["of"] for one in known if one["source"] == UNVERIFIED and one["of"] not in unstated]
    if unstated:
        found.append(f"no licence is stated for {', '.join(unstated)}: what they make cannot be passed on safely")
    if unread:
        found.append(f"unverified: read the licences of {', '.join(unread)} before you rely on what is said of them")
    if device.unit == "core" and config.fleet.kind == "local" and config.fleet.workers > (os.cpu_count() or 1):
        found.append(f"{config.fleet.workers} workers share {os.cpu_count()} cores: they take longer than planned")
    if config.plan.device == "auto" and device.unit == "GPU" and device.source != "measured":
        found.append("an A100 is assumed; name yours in plan.device, or measure with --plan.measure true")
    return found


def _deadline(job: Job, hours: float, dollars: float) -> dict[str, Any]:
    """How many workers end within `hours`, and what they cost."""
    workers = workers_for(job, hours * 3600)
    if workers is None:
        least = (job.startup + job.shard_seconds) / 3600
        return {"hours": hours, "workers": None, "why": f"one shard alone ends after {least:.2f} h; make them smaller"}
    taken = wall_seconds(job, workers) / 3600
    return {
        "hours": hours,
        "workers": workers,
        "devices": math.ceil(workers * job.devices),
        "ends_after_hours": round(taken, 3),
        "compute_dollars": round(workers * job.devices * taken * dollars, 2),
    }
