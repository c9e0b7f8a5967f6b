"""Imports: three families, two kinds of file, what is refused, and the check against stored tensors."""

import json
import re
from pathlib import Path

import goldens
import pytest
import torch
from gan.original_pickles import training_pickle
from gan.original_settings import original_settings
from gan.originals import CONFIGS, network, state_dict_file
from safetensors.torch import save_file

from styleavatar3d import cli
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.gan.classic import ClassicGenerator
from styleavatar3d.gan.classic_config import PRESETS
from styleavatar3d.gan.generator import Generator
from styleavatar3d.gan.import_settings import classic_config
from styleavatar3d.gan.imports import import_generator
from styleavatar3d.runtime.licences import explain, stated_licences
from styleavatar3d.runtime.storage import Storage


def views(generator: ClassicGenerator) -> list[torch.Tensor]:
    z = torch.randn(2, generator.config.z_dim, generator=torch.Generator().manual_seed(3))
    label = generator.front_label(2)
    return list(generator(z, label))


@pytest.mark.parametrize("kind", ["safetensors", "pickle"])
@pytest.mark.parametrize("family", CONFIGS)
def test_an_imported_generator_is_the_original(family: str, kind: str, tmp_path: Path):
    original = network(family)
    file = state_dict_file(tmp_path, original)
    if kind == "pickle":
        file = tmp_path / "network-snapshot-000000.pkl"
        file.write_bytes(training_pickle(original.state_dict(), original_settings(original.config)))
    result = import_generator(str(file), str(tmp_path / "out"), family)
    imported = Generator.from_pretrained(str(tmp_path / "out"))
    assert isinstance(imported, ClassicGenerator)
    assert imported.config == original.config
    assert result["parameters"] == sum(parameter.numel() for parameter in original.parameters())
    assert all(torch.equal(a, b) for a, b in zip(views(imported), views(original), strict=True))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_all_protocols_are_read(protocol: int, tmp_path: Path):
    original = network("eg3d")
    file = tmp_path / "net.pkl"
    file.write_bytes(training_pickle(original.state_dict(), original_settings(original.config), protocol=protocol))
    import_generator(str(file), str(tmp_path / "out"))
    imported = Generator.from_pretrained(str(tmp_path / "out"))
    assert all(torch.equal(tensor, imported.state_dict()[name]) for name, tensor in original.state_dict().items())


def test_filters_may_be_missing_and_a_body_model_is_ignored(tmp_path: Path):
    original = network("pyramid")
    file = state_dict_file(tmp_path, original)
    kept = {name: tensor for name, tensor in original.state_dict().items() if not name.endswith("resample_filter")}
    save_file(kept | {"renderer.face_mask": torch.ones(4, dtype=torch.bool)}, file)
    import_generator(str(file), str(tmp_path / "out"))
    imported = Generator.from_pretrained(str(tmp_path / "out"))
    assert all(torch.equal(a, b) for a, b in zip(views(imported), views(original), strict=True))


@pytest.mark.parametrize("family", PRESETS)
def test_full_size_names_and_shapes_map_without_remainder(family: str):
    """The listings of the published networks name exactly what the configuration read off their shapes builds."""
    listed = listing(family)
    config = classic_config(family, original_settings(PRESETS[family][0]), listed)
    with torch.device("meta"):
        built = ClassicGenerator(config)
    assert {name: tuple(tensor.shape) for name, tensor in built.state_dict().items()} == listed
    assert sum(parameter.numel() for parameter in built.parameters()) == PRESETS[family][1]
    same = {"channel_base", "channel_max", "third_plane"}  # a pyramid's widths follow from its planes
    assert config.model_dump(exclude=same) == PRESETS[family][0].model_dump(exclude=same)
    assert config.third_plane == ("zx" if family == "eg3d" else "yz")


def listing(family: str) -> dict[str, tuple[int, ...]]:
    title = {"eg3d": "EG3D generator", "panohead": "PanoHead generator", "pyramid": "Portrait3D pyramid generator"}
    text = goldens.path("state_dict_listing.md").read_text()
    section = next(part for part in text.split("\n## ") if part.startswith(title[family]))
    rows = re.findall(r"^(\S+)  \[([\d, ]*)\]", section, re.M)
    return {name: tuple(int(side) for side in shape.split(",") if side.strip()) for name, shape in rows}


# --- refusals ---


def broken(original: ClassicGenerator) -> dict[str, tuple[dict, str]]:
    weights = original.state_dict()
    bias = weights["decoder.net.0.bias"]
    return {
        "extra": ({"discriminator.b4.weight": bias.clone()}, "not of this network:\n    discriminator.b4.weight"),
        "misshapen": (
            {"decoder.net.0.bias": bias[:5].clone()},
            r"another shape .*:\n    decoder.net.0.bias \(5,\), not \(64,\)",
        ),
        "not a number": ({"decoder.net.0.bias": bias * float("nan")}, "not finite:\n    decoder.net.0.bias"),
        "infinite": ({"decoder.net.0.bias": bias / 0}, "not finite:\n    decoder.net.0.bias"),
        "integers": ({"decoder.net.0.bias": bias.long()}, "not real numbers:\n    decoder.net.0.bias"),
        "another filter": (
            {"backbone.synthesis.b8.resample_filter": torch.ones(4, 4) / 16},
            "another resampling kernel.*\n    backbone.synthesis.b8.resample_filter",
        ),
    }


@pytest.mark.parametrize("case", broken(network("eg3d")))
def test_broken_state_dicts_are_refused_by_name(case: str, tmp_path: Path):
    original = network("eg3d")
    changes, message = broken(original)[case]
    with pytest.raises(StyleAvatarError, match=message):
        import_generator(str(state_dict_file(tmp_path, original, **changes)), str(tmp_path / "out"), "eg3d")
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_missing_tensors_are_named(tmp_path: Path):
    original = network("eg3d")
    file = state_dict_file(tmp_path, original)
    gone = ("backbone.mapping.fc1.bias", "superresolution.block1.torgb.bias")
    save_file({name: tensor for name, tensor in original.state_dict().items() if name not in gone}, file)
    with pytest.raises(StyleAvatarError, match="missing:\n    " + "\n    ".join(gone)):
        import_generator(str(file), str(tmp_path / "out"))


def test_another_family_is_refused(tmp_path: Path):
    file = state_dict_file(tmp_path, network("panohead"))
    with pytest.raises(StyleAvatarError, match=r"another family\n  got:      panohead\n  expected: eg3d"):
        import_generator(str(file), str(tmp_path / "out"), "eg3d")


def test_what_is_no_generator_is_refused(tmp_path: Path):
    save_file({"b4.fc.weight": torch.ones(2)}, tmp_path / "net.safetensors")
    (tmp_path / "net.json").write_text("{}")
    with pytest.raises(StyleAvatarError, match="not the weights of a 3D generator"):
        import_generator(str(tmp_path / "net.safetensors"), str(tmp_path / "out"))


SETTINGS = {
    "no rendering": (lambda tree: tree.pop("rendering_kwargs"), "setting rendering_kwargs is missing"),
    "no box": (lambda tree: tree["rendering_kwargs"].pop("box_warp"), "setting box_warp is missing"),
    "no size": (lambda tree: tree.pop("img_resolution"), "setting img_resolution is missing"),
    "odd super-resolution": (
        lambda tree: tree["rendering_kwargs"].update(superresolution_module="os.system"),
        "super-resolution is not known here\n  got:      os.system",
    ),
    "odd density": (lambda tree: tree["rendering_kwargs"].update(clamp_mode="relu"), "density is not known here"),
    "odd mapping": (lambda tree: tree["mapping_kwargs"].update(lr_multiplier=1), "mapping network is not known here"),
    "no number": (lambda tree: tree["rendering_kwargs"].update(ray_start="near"), "rendering.near"),
    "far before near": (lambda tree: tree["rendering_kwargs"].update(ray_end=1.0), "near 2.25 is not before far 1.0"),
    "another size": (lambda tree: tree.update(img_resolution=32), "another shape than the settings say"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_that_do_not_fit_are_refused(case: str, tmp_path: Path):
    file = state_dict_file(tmp_path, network("eg3d"))
    spoil, message = SETTINGS[case]
    tree = json.loads((tmp_path / "net.json").read_text())
    spoil(tree["config"])
    (tmp_path / "net.json").write_text(json.dumps(tree))
    with pytest.raises(StyleAvatarError, match=message):
        import_generator(str(file), str(tmp_path / "out"))


def test_files_that_cannot_be_read_are_refused(tmp_path: Path):
    (tmp_path / "a.pkl").write_bytes(b"PK\x03\x04 and so on")
    (tmp_path / "b.safetensors").write_bytes(b"no tensors")
    file = state_dict_file(tmp_path, network("eg3d"))
    for name, message in (("a.pkl", "torch zip"), ("b.safetensors", "not a safetensors"), ("c.pkl", "no such file")):
        with pytest.raises(StyleAvatarError, match=message):
            import_generator(str(tmp_path / name), str(tmp_path / "out"))
    (tmp_path / "net.json").write_text("[" * 100_000)
    with pytest.raises(StyleAvatarError, match="not JSON"):
        import_generator(str(file), str(tmp_path / "out"))
    (tmp_path / "net.json").unlink()
    with pytest.raises(
        StyleAvatarError, match=r"no settings beside .*\n  expected: net_weights.json or net.json or config"
    ):
        import_generator(str(file), str(tmp_path / "out"))


# --- the card ---


def test_the_card_names_source_and_licence(tmp_path: Path):
    file = state_dict_file(tmp_path, network("panohead"))
    result = import_generator(str(file), str(tmp_path / "out"))
    licences = stated_licences(Storage.open(str(tmp_path / "out")))
    assert licences == ["cc-by-nc-sa-4.0", "nvidia-source-code-eg3d"]
    assert [explain(licence).commercial for licence in licences] == ["no", "no"]
    assert result["sha256"] in (tmp_path / "out" / "README.md").read_text()
    import_generator(str(file), str(tmp_path / "out"), licence="cc0-1.0")
    assert stated_licences(Storage.open(str(tmp_path / "out"))) == ["cc0-1.0"]


# --- the check ---


def check_file(folder: Path, original: ClassicGenerator, **changes) -> Path:
    """What a network makes, as a file to check against."""
    z = torch.randn(2, original.config.z_dim, generator=torch.Generator().manual_seed(3))
    label = original.front_label(2).clone()
    codes = original.mapping(z, label)
    seen = original(z, label)
    tensors = {"z": z, "c": label, "ws": codes[:, :1], "image": seen.image, "image_raw": seen.raw, "mask": seen.mask}
    tensors |= {"image_depth": seen.depth, "unheard_of": torch.ones(2)} | changes
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "made.safetensors")
    spec = {name: {"suggested_atol": 1e-5} for name in tensors}
    spec["image_depth"]["compare_only_where"] = "mask > 0.001"
    (folder / "made.json").write_text(json.dumps({"tensors": spec}))
    return folder / "made.safetensors"


@pytest.mark.parametrize("family", CONFIGS)
def test_the_check_recomputes_what_is_stored(family: str, tmp_path: Path):
    original = network(family)
    file = state_dict_file(tmp_path, original)
    result = import_generator(str(file), str(tmp_path / "out"), check=str(check_file(tmp_path, original)))
    rows = {row["tensor"]: row for row in result["tensors"]}
    assert rows.keys() == {"ws", "image", "image_raw", "mask", "image_depth"}
    assert all(row["ok"] and row["error"] <= 1e-5 for row in rows.values())
    assert (result["not_recomputed"], result["exit_code"]) == ("unheard_of", 0)


def test_depth_counts_only_where_something_is_seen(tmp_path: Path):
    original = network("eg3d")
    seen = original(torch.randn(2, 8, generator=torch.Generator().manual_seed(3)), original.front_label(2))
    mask, depth = seen.mask.clone(), seen.depth.clone()
    mask[..., 0, :], depth[..., 0, :] = 0, float("nan")
    checked = check_file(tmp_path, original, alpha=mask, image_depth=depth)
    spec = json.loads(checked.with_suffix(".json").read_text())
    spec["tensors"]["image_depth"]["compare_only_where"] = "alpha > 0.001"
    checked.with_suffix(".json").write_text(json.dumps(spec))
    result = import_generator(str(state_dict_file(tmp_path, original)), str(tmp_path / "out"), check=str(checked))
    rows = {row["tensor"]: row["ok"] for row in result["tensors"]}
    assert rows["image_depth"] and not rows["alpha"]


def test_the_command_leaves_with_2_if_a_tensor_is_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    original = network("eg3d")
    raw = original(torch.randn(2, 8, generator=torch.Generator().manual_seed(3)), original.front_label(2)).raw
    off = check_file(tmp_path, original, image_raw=raw + 1e-3, image=torch.zeros(3))
    words = ["import", "--family", "eg3d", str(state_dict_file(tmp_path, original)), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as leaving:
        cli.main([*words, "--check", str(off), "--json"])
    assert leaving.value.code == 2
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    rows = {row["tensor"]: row for row in result["tensors"]}
    assert rows["image_raw"] == {"tensor": "image_raw", "error": 1e-3, "tolerance": 1e-5, "ok": False}
    assert rows["image"]["error"] == "of another size"
    assert (rows["ws"]["ok"], result["exceeded"]) == (True, 2)


def test_a_check_without_tolerances_is_refused(tmp_path: Path):
    original = network("eg3d")
    checked = check_file(tmp_path, original)
    checked.with_suffix(".json").write_text("{}")
    with pytest.raises(StyleAvatarError, match="no tolerance for image"):
        import_generator(str(state_dict_file(tmp_path, original)), str(tmp_path / "out"), check=str(checked))


@pytest.mark.parametrize("kind", ["safetensors", "pickle"])
def test_eg3d_makes_what_the_original_made(kind: str, tmp_path: Path):
    """All tensors that the public code made, gradients included, from its own state dict and from a pickle of it."""
    file = goldens.path("eg3d_tiny_weights.safetensors")
    if kind == "pickle":
        settings = goldens.load("eg3d_tiny").settings
        made = settings["config"] | {"neural_rendering_resolution": settings["neural_rendering_resolution"]}
        (tmp_path / "net.pkl").write_bytes(training_pickle(goldens.weights("eg3d_tiny"), made))
        file = tmp_path / "net.pkl"
    checked = str(goldens.path("eg3d_tiny.safetensors"))
    result = import_generator(str(file), str(tmp_path / "out"), "eg3d", check=checked)
    assert result["not_recomputed"] == "none" and len(result["tensors"]) == 32
    assert [row for row in result["tensors"] if not row["ok"]] == []
