"""Is the generator near the renders, does it obey the camera, and is each avatar one solid figure from all sides?

Reads the stores that `workers.fill` completed; nothing is drawn here. See docs/metrics.md for what each number is.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from styleavatar3d.bench.held_out import show
from styleavatar3d.bench.population import Population, Source
from styleavatar3d.camera.cameras import yaw_pitch
from styleavatar3d.figures.looks import WORDS
from styleavatar3d.metrics.consistency import (
    Pose,
    PoseErrors,
    back_face_score,
    identity_consistency,
    pose_errors,
)
from styleavatar3d.metrics.distribution import frechet_distance, kernel_distance, precision_recall
from styleavatar3d.metrics.store import FeatureStore

BANDS = {"front": (0.0, 45.0), "side": (45.0, 135.0), "back": (135.0, 180.1)}
"""|yaw| in degrees, upper ends open."""
_FEWEST = 4
"""Pictures of which anything can be said."""


def distances(population: Population) -> dict[str, Any]:
    """How far held-out renders are from the generator's pictures, from those it learned from and from the pictures of
    an untrained one; the same in each band of yaw; and how far its views are turned from their cameras."""
    job = population.job
    real = population.store("renders")
    fakes: tuple[Source, ...] = ("generator", "untrained", "synthesised")
    pictures: dict[Source, FeatureStore] = {of: population.store(of) for of in fakes if of in job.sources}
    rows = [{"pictures of": of, "count": fake.count, **compared(real, fake)} for of, fake in pictures.items()]
    show(f"distance from held-out renders, {population.features.name} features", rows)
    table: dict[str, Any] = {row["pictures of"]: row for row in rows} | {"features": population.features.name}
    table["bands"] = bands(population, real, pictures)
    show("the same by |yaw| of the camera", table["bands"])
    table["pose"] = [{"pictures of": of, **turns(population, of)} for of in ("generator", "renders")]
    table["yaw"] = {name: table["pose"][0][f"yaw {name}"] for name in ("median", "90th percentile")}
    show(
        "degrees between asked and judged view (yaw: judge; pitch and pose: with the estimator's pitch)", table["pose"]
    )
    if job.data is not None:
        table["ratio"] = round(table["generator"]["FID"] / table["synthesised"]["FID"], 3)
        print(f"  FID of the generator is {table['ratio']} x that of what it learned from")
    return table


def compared(real: FeatureStore, fake: FeatureStore) -> dict[str, float | None]:
    """FID, KID, precision and recall."""
    reals, fakes = real.gather("features"), fake.gather("features")
    distance: dict[str, float | None] = {
        "FID": round(frechet_distance(real.gaussian(), fake.gaussian()), 4),
        "KID": round(kernel_distance(reals, fakes), 5),
    }
    if min(len(reals), len(fakes)) < _FEWEST:
        return distance | {"precision": None, "recall": None}
    shares = precision_recall(reals, fakes)
    return distance | {"precision": round(shares.precision, 3), "recall": round(shares.recall, 3)}


def bands(population: Population, real: FeatureStore, pictures: Mapping[Source, FeatureStore]) -> list[dict[str, Any]]:
    """FID and KID among the views of each band; None where there are too few."""
    rows = []
    for name, (low, high) in BANDS.items():
        row: dict[str, Any] = {"band": name, "from": low, "renders": int(among(population, real, low, high).sum())}
        for of, fake in pictures.items():
            if of == "synthesised":
                continue  # its cameras are its own
            chosen, shown = among(population, real, low, high), among(population, fake, low, high)
            enough = min(chosen.sum(), shown.sum()) >= _FEWEST
            row[f"FID of {of}"] = row[f"KID of {of}"] = None
            if enough:
                fid = frechet_distance(real.gaussian(among=chosen), fake.gaussian(among=shown))
                kid = kernel_distance(real.gather("features")[chosen], fake.gather("features")[shown])
                row |= {f"FID of {of}": round(fid, 4), f"KID of {of}": round(kid, 5)}
        rows.append(row)
    return rows


def among(population: Population, store: FeatureStore, low: float, high: float) -> Bool[Tensor, "count"]:
    """Which pictures were asked for from low <= |yaw| < high."""
    yaw = yaw_pitch(population.job.labels(range(store.count)))[0].abs()
    return (yaw >= low) & (yaw < high)


def turns(population: Population, source: Source) -> dict[str, float | None]:
    """Median and 90th percentile of the errors of yaw, pitch and pose, degrees; and faces where none should be."""
    store = population.store(source)
    labels = population.job.labels(range(store.count))
    errors = pose_errors(Pose(store.gather("yaw"), store.gather("pitch")), labels)
    told: dict[str, float | None] = {
        f"{name} {which}": round(value, 2)
        for name, error in zip(PoseErrors._fields, errors, strict=True)
        for which, value in (("median", error.median().item()), ("90th percentile", error.quantile(0.9).item()))
    }
    behind = back_face_score(store.gather("face"), yaw_pitch(labels)[0])
    return told | {"face at the back": None if behind != behind else round(behind, 3)}


def solidity(population: Population) -> dict[str, Any]:
    """Do eight views of one avatar get the same verdicts, is its depth a head's, and do its views agree on one shape?

    Verdicts: for each attribute, the share of eight views (of those that can show it) that agree with the majority.
    Depth: correlation with the best of twelve figures that have the avatar's judged words, and with a plain head.
    """
    avatars, figures = population.store("avatars"), population.store("figures")
    own, possible = avatars.gather("shares"), figures.gather("shares")
    rows = [{"attribute": "all", "avatars": int(own.isfinite().sum()), **agreed(own, possible)}]
    rows += [
        {"attribute": name, "avatars": int(own[:, i].isfinite().sum()), **agreed(own[:, i], possible[:, i])}
        for i, name in enumerate(WORDS)
        if own[:, i].isfinite().any()
    ]
    show(f"{avatars.count} avatars: agreement of the judge's verdicts on eight visible views", rows)
    correlation = avatars.gather("correlation").mean(0).tolist()
    fits = {name: round(value, 3) for name, value in zip(("fitted head", "plain head"), correlation, strict=True)}
    show("correlation of their depth with that of a parametric head", [fits])
    solid = [solid_row("avatars", avatars), solid_row("renders", figures)]
    show("one solid figure? depths in world units (a head is 0.36 high)", solid)
    return {"verdicts": {row["attribute"]: row for row in rows}, "depth": fits, "solid": solid}


def agreed(own: Float[Tensor, "*shares"], possible: Float[Tensor, "*shares"]) -> dict[str, float | None]:
    return {"same verdict": mean(own), "in renders": mean(possible)}


def solid_row(name: str, store: FeatureStore) -> dict[str, Any]:
    """The measures of `metrics.consistency` over all avatars (or figures) of a store."""
    fitted = "depth error" in store.read(0)
    identity = identity_consistency(store.gather("features")) if store.count > 1 else None
    return {
        "of": name,
        "depth error": middle(store.gather("depth error")) if fitted else None,
        "overlap": mean(store.gather("overlap")) if fitted else None,
        "cross-view depth": middle(store.gather("cross-view depth")),
        "mirroring": mean(store.gather("mirroring")),
        "face at the back": mean(store.gather("face behind")),
        "identity, same": None if identity is None else round(identity.same, 3),
        "identity, others": None if identity is None else round(identity.others, 3),
        "told apart": None if identity is None else round(identity.told_apart, 3),
    }


def mean(values: Float[Tensor, "*values"]) -> float | None:
    """Of the numbers among them; None of nothing."""
    return round(values.double().nanmean().item(), 3) if values.isfinite().any() else None


def middle(values: Float[Tensor, "*values"]) -> float | None:
    """Median of the numbers among them; None of nothing."""
    found = values.flatten().double().nanmedian().item()
    return round(found, 4) if torch.tensor(found).isfinite() else None
