"""Small data sets made without any network."""

import torch

from styleavatar3d.camera.cameras import Camera
from styleavatar3d.runtime.random import generator
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.shards.manifest import Plan, begin, commit
from styleavatar3d.shards.schema import Figure, Guidance, Model, Record
from styleavatar3d.shards.writer import Sample

SIZE = 16
REJECTED = {3, 11}


def make_sample(index: int) -> Sample:
    yaw = float(index * 40 % 360 - 180)
    camera = Camera.orbit(yaw, 5.0)
    image = torch.randint(0, 256, (3, SIZE, SIZE), dtype=torch.uint8, generator=generator(0, "test", index))
    side = "left" if yaw > 0 else "right"
    record = Record(
        index=index, attempt=0, seed=index, camera=camera.label().tolist(), yaw=yaw, pitch=5.0,
        prompt=f"head, {side} side view", negative="", kind="human", style="clay", view=side,
        attributes={"hair": "bob"},
        guidance=[Guidance(kind="hybrid", scale=1.0)],
        models=[Model(id="tiny", revision="0", sha256="0" * 64, licence="CC0-1.0")],
        figure=Figure(id=str(index), source="heads", licence="CC0-1.0"), gates={},
        verdict="rejected" if index in REJECTED else "accepted", config_hash="0" * 12,
    )  # fmt: skip
    return Sample(record, image, image[:1] // 128 * 255, {"hybrid": image})


def make_dataset(url: str, count: int = 20, shard_size: int = 6) -> Storage:
    storage = Storage.open(url)
    plan = Plan(count=count, shard_size=shard_size, resolution=SIZE, config_hash="0" * 12, licences=["CC0-1.0"])
    begin(storage, plan)
    for shard in range(plan.shards):
        commit(storage, shard, [make_sample(index) for index in plan.indices(shard)])
    return storage
