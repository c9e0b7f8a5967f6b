"""The plan: arithmetic by hand, the protocol's requests as they really are, and no network."""

import math
import socket

import pytest
import torch
from shards.samples import make_sample

from styleavatar3d.config import load_config
from styleavatar3d.errors import ConfigError, StyleAvatarError
from styleavatar3d.runtime.licences import CARD, PAGE, UNVERIFIED, explain, known_licence
from styleavatar3d.runtime.storage import LocalStorage
from styleavatar3d.shards.manifest import commit
from styleavatar3d.synthesis.plan import PlanConfig, licences, plan
from styleavatar3d.synthesis.profiles import (
    Device,
    Drawing,
    find_device,
    interpolate,
    picture_bytes,
    profiles,
    seconds_per_picture,
    shard_bytes,
)
from styleavatar3d.synthesis.scale import (
    GETS_A_SHARD,
    PUTS_A_SHARD,
    Job,
    load,
    record_bytes,
    requests,
    wall_seconds,
    workers_for,
)

LIMITS = profiles().limits
JOB = Job(
    pictures=1000, shard_size=100, shard_bytes=10_240_000, parts=5, seconds=2.0, startup=60.0, devices=1.0
)  # 10 shards of 200 s each


@pytest.fixture(autouse=True)
def no_network_and_own_cache(monkeypatch, tmp_path):
    def refuse(*_):
        raise AssertionError("a plan needs no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("STYLEAVATAR3D_CACHE", str(tmp_path / "cache"))


def planned(name="synthesis/sd15", *overrides):
    return plan(load_config(PlanConfig, name, overrides))


@pytest.mark.parametrize(("workers", "rounds"), [(1, 10), (3, 4), (4, 3), (5, 2), (9, 2), (10, 1), (1000, 1)])
def test_a_worker_does_whole_shards(workers, rounds):
    assert wall_seconds(JOB, workers) == 60 + rounds * 200


@pytest.mark.parametrize("deadline", [260, 459, 460, 700, 2060, 1e6])
def test_the_fewest_workers_that_meet_a_deadline(deadline):
    workers = workers_for(JOB, deadline)
    assert wall_seconds(JOB, workers) <= deadline
    assert workers == 1 or wall_seconds(JOB, workers - 1) > deadline
    assert workers_for(JOB, 259) is None


def test_half_a_gpu_is_half_as_fast_and_costs_half():
    half, whole = JOB._replace(devices=0.5, startup=0), JOB._replace(startup=0)
    assert wall_seconds(half, 2) == wall_seconds(whole, 1)
    assert load(half, 2, LIMITS)["device_hours"] == load(whole, 1, LIMITS)["device_hours"] == 0.56  # 2000 s
    assert wall_seconds(JOB._replace(devices=2.0), 1) == wall_seconds(JOB, 1)


def test_the_scale_table_by_hand():
    row = load(JOB, 5, LIMITS)
    assert row["hours"] == round(460 / 3600, 3)
    assert (
        row["shards_per_second"] == 5 / 200 and row["put_per_second"] == 10 / 200 and row["get_per_second"] == 5 / 200
    )
    assert row["pictures_per_second"] == 2.5
    assert row["upload_megabytes_per_second"] == pytest.approx(5 / 200 * 10.24)
    assert row["idle"] == round(1 - 2000 / (5 * 460), 3)
    assert requests(JOB, LIMITS) == {"put": 22, "get": 20, "list": 2}


def test_limits_that_come_near_are_said():
    tiny = JOB._replace(pictures=10_000_000, shard_size=1, seconds=0.5)
    said = " ".join(load(tiny, 1000, LIMITS)["warnings"])
    assert "4000.0 of at most 3500 PUTs" in said and "results a second" in said and "reads the manifest" in said
    assert "have no shard" in " ".join(load(JOB, 11, LIMITS)["warnings"])
    assert "a lost worker" in " ".join(load(JOB._replace(seconds=60), 1, LIMITS)["warnings"])
    assert load(JOB._replace(startup=0), 5, LIMITS)["warnings"] == []


def test_the_protocol_makes_as_many_requests_as_are_reckoned(tmp_path):
    samples = [make_sample(index) for index in range(20)]

    calls = {"put": 0, "get": 0}

    class Counting(LocalStorage):
        def publish(self, name, data):  # on S3: one PUT, and one GET that verifies it
            calls["put"] += 1
            calls["get"] += 1
            return super().publish(name, data)

        def create(self, name, data):
            calls["put"] += 1
            return super().create(name, data)

        def read(self, name):
            calls["get"] += 1
            return super().read(name)

    storage = Counting(tmp_path)
    entry = commit(storage, 0, samples)
    assert calls == {"put": PUTS_A_SHARD, "get": GETS_A_SHARD}
    job = JOB._replace(pictures=len(samples), shard_size=len(samples), shard_bytes=entry.bytes, parts=len(entry.parts))
    assert record_bytes(job) == pytest.approx((tmp_path / "manifest" / "000000.json").stat().st_size, rel=0.3)


def test_seconds_by_hand():
    device = Device(rate={1.0: 10.0}, source="measured", note="", dollars=1.0)
    family = profiles().families["sd15"]
    drawing = Drawing("sd15", 512, steps=20, controlnets=[1.0, 0.5], guided=True, batch=4)
    step = 2 * 4 * (0.80327 + 1.5 * 0.28329) / 10
    assert family.unet.tflop(512) == pytest.approx(0.80327) and family.controlnet.tflop(512) == pytest.approx(0.28329)
    assert seconds_per_picture(drawing, device) == pytest.approx((20 * step + 4 * 2.51452 / 10) / 4, rel=1e-3)


def test_published_rates_give_back_the_published_speed():
    _, a100 = find_device("a100")
    drawing = Drawing("sd15", 512, steps=50, controlnets=[1.0], guided=True, batch=16)
    step = (seconds_per_picture(drawing, a100) * 16 - a100.seconds(16 * 2.5145)) / 50
    assert 1 / step == pytest.approx(2.58, rel=0.01)


def test_more_work_never_takes_less_time():
    for device in profiles().devices.values():
        base = Drawing("sd15", 512, 20, [1.0], True, 8)
        seconds = seconds_per_picture(base, device)
        for harder in (
            base._replace(steps=30), base._replace(side=768), base._replace(controlnets=[1.0, 1.0]),
            base._replace(family="sdxl"), base._replace(batch=1),
        ):  # fmt: skip
            assert seconds_per_picture(harder, device) >= seconds * 0.999
        assert seconds_per_picture(base._replace(guided=False), device) <= seconds
    for side in (64, 200, 512, 1024):
        assert picture_bytes(side, "image.jpg", [], False) < picture_bytes(side, "image.png", [], False)
        assert picture_bytes(side, "image.png", [], False) < picture_bytes(side, "image.png", ["depth"], False)
        assert picture_bytes(side, "image.png", [], False) < picture_bytes(2 * side, "image.png", [], False)


def test_tables_are_interpolated_between_their_points():
    assert interpolate({1.0: 1.0, 100.0: 10.0}, 10.0) == pytest.approx(math.sqrt(10))
    assert interpolate({1.0: 1.0, 100.0: 10.0}, 10_000.0) == pytest.approx(100.0)
    assert interpolate({4.0: 7.0}, 99.0) == 7.0
    assert shard_bytes(1, 100) == 10_240 and shard_bytes(100, 1024) == 112_640


def test_a_device_is_found_as_its_driver_calls_it():
    assert find_device("NVIDIA A100-SXM4-80GB")[0] == "a100-80gb"
    assert find_device("NVIDIA H200")[0] == "h200" and find_device("cpu x86_64, 2 cores")[0] == "cpu"
    with pytest.raises(StyleAvatarError, match="did you mean 'rtx-4090'"):
        find_device("rtx-409")
    with pytest.raises(StyleAvatarError, match="no profile of this device"):
        planned("synthesis/sd15", "--plan.device", "abacus")


def test_a_full_plan_has_everything_and_every_source_is_said():
    result = planned("synthesis/sd15", "--plan.device", "a100", "--plan.workers", "8", "--plan.deadline-hours", "10")
    assert result["pictures"] == 100_000 and result["shards"] == 400
    assert result["bytes"] > 0 and result["gpu_hours"] > 0 and result["manifest_bytes"] > 0
    assert result["profile"]["source"] == "published" and result["profile"]["where"].startswith("https://")
    assert result["cost"]["compute_dollars"] == pytest.approx(result["gpu_hours"] * 1.8, abs=0.05)
    assert [row["workers"] for row in result["scale"]] == [1, 8, 64, 256, 1000]
    assert result["deadline"]["ends_after_hours"] <= 10
    free = planned("synthesis/sd15", "--plan.device", "a100", "--plan.dollars-per-hour", "0")
    assert free["cost"]["compute_dollars"] == 0
    twice = planned("synthesis/sd15", "--plan.device", "a100", "--plan.redraws", "1")
    assert twice["seconds_per_picture"] == free["seconds_per_picture"]
    assert twice["scale"][0]["hours"] == pytest.approx(2 * free["scale"][0]["hours"], rel=0.01)


def test_licences_of_all_weights_and_what_they_mean():
    said = {one["of"]: one for one in licences(load_config(PlanConfig, "synthesis/sd15"))}
    base = next(one for name, one in said.items() if "stable-diffusion-v1-5" in name)
    assert base["id"] == "creativeml-openrail-m" and base["derivatives"] and "derivative" in base["meaning"]
    assert sum("control" in name for name in said) == 2 and said["the parametric heads"]["id"] == "CC0-1.0"
    small = licences(load_config(PlanConfig, "synthesis/miniature"))
    assert {one["id"].lower() for one in small} == {"apache-2.0", "cc0-1.0"} and not any(
        one["derivatives"] for one in small
    )
    assert {one["source"] for one in small} == {CARD, "this project"}
    assert explain("made-up").derivatives and known_licence("nobody/nothing").licence == "not stated"


def test_a_licence_that_nobody_has_read_is_said_to_be_unverified():
    read, remembered = "lllyasviel/control_v11f1p_sd15_depth", "stable-diffusion-v1-5/stable-diffusion-v1-5"
    made = planned("synthesis/sd15")
    source = {one["of"].partition("@")[0]: one["source"] for one in made["licences"]}
    assert source[read] == PAGE and source[remembered] == UNVERIFIED and UNVERIFIED.startswith("unverified")
    (warning,) = [text for text in made["warnings"] if text.startswith("unverified")]
    assert remembered in warning and read not in warning
    assert known_licence(f"{read}@{'0' * 40}") == known_licence(read)


def test_a_model_without_a_family_or_a_profile_is_an_error():
    with pytest.raises(StyleAvatarError, match="how much work this model does is not known"):
        planned("synthesis/miniature", "--model.folder", "somewhere/else")
    with pytest.raises(ConfigError, match="plan.devise: unknown key. did you mean 'device'"):
        planned("synthesis/sd15", "--plan.devise", "a100")


def test_a_measured_profile_is_kept_and_goes_before_the_table(diffusion):
    words = ["--model.folder", str(diffusion), "--sample.batch", "2", "--sample.steps", "1", "--data.count", "8",
             "--data.shard-size", "4"]  # fmt: skip
    threads = torch.get_num_threads()
    first = planned("synthesis/tiny", *words, "--plan.measure", "true")
    assert first["profile"]["source"] == "measured" and torch.get_num_threads() == threads
    again = planned("synthesis/tiny", *words)
    assert again["seconds_per_picture"] == first["seconds_per_picture"] and again["bytes"] == first["bytes"]
    with pytest.raises(StyleAvatarError, match="how much work"):
        planned("synthesis/tiny", *words, "--sample.steps", "2")


def test_a_second_pass_and_the_models_of_styles_are_reckoned_with():
    once = planned("synthesis/sd15", "--plan.device", "a100")
    again = "{strength: 0.5, size: 512}"
    twice = planned("synthesis/sd15", "--plan.device", "a100", "--sample.again", again)
    assert 1.3 * once["seconds_per_picture"] < twice["seconds_per_picture"] < 1.7 * once["seconds_per_picture"]
    styled = planned("synthesis/sd15", "--plan.device", "a100", "--prompts", "{style_models: sd15}")
    assert "nitrosocke/redshift-diffusion" in {one["of"] for one in styled["licences"]}
