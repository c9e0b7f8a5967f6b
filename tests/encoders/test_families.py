"""Each family as the library of the models itself computes it, and what is refused."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from encoders.stock import write_clip, write_dinov2, write_siglip
from torch.nn.functional import normalize

from styleavatar3d.encoders.clip import ClipEncoder, SiglipEncoder
from styleavatar3d.encoders.families import BridgedEncoder, Dinov2Encoder, open_bridge, open_encoder
from styleavatar3d.errors import StyleAvatarError

WRITERS = {
    "clip": write_clip,
    "siglip": write_siglip,
    "dinov2": write_dinov2,
    "registers": partial(write_dinov2, registers=True),
}
TEXTS = ["a robot with blue hair", "a man"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("encoders")
    return {name: write(root / name) for name, write in WRITERS.items()}


def pictures(size: int) -> np.ndarray:
    """Two smooth pictures in bytes, away from black and white: where a cubic overshoots, Pillow cuts off twice."""
    draw = 0.2 + 0.6 * torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(5))
    grown = torch.nn.functional.interpolate(draw, (size, size), mode="bicubic").clamp(0, 1)
    return (grown * 255).round().byte().movedim(1, -1).numpy()


def tensors(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).movedim(-1, 1).float() / 127.5 - 1


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("size", [32, 48, 100])
def test_pictures_are_read_as_the_model_s_own_processor_reads_them(folders, name: str, size: int):
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModel

    encoder, images = open_encoder(folders[name]), pictures(size)
    processor = AutoImageProcessor.from_pretrained(folders[name])
    expected = processor(images=[Image.fromarray(image) for image in images], return_tensors="pt").pixel_values
    prepared = encoder.preparation(tensors(images))
    one_byte = 2 / 255 / min(encoder.preparation.std)
    torch.testing.assert_close(prepared, expected, atol=1.25 * one_byte, rtol=0)  # Pillow rounds, once a direction

    model = AutoModel.from_pretrained(folders[name]).eval()
    with torch.no_grad():
        out = model(expected) if name in ("dinov2", "registers") else model.get_image_features(expected)
    embeddings, wanted = encoder.images(tensors(images)), normalize(out.pooler_output)
    assert embeddings.shape == (2, encoder.dim) and (embeddings * wanted).sum(1).min() > 0.999
    if size == encoder.preparation.resized:
        torch.testing.assert_close(embeddings, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_texts_are_read_as_the_library_reads_them(folders, name: str):
    from transformers import AutoModel, AutoTokenizer

    encoder, model = open_encoder(folders[name]), AutoModel.from_pretrained(folders[name]).eval()
    padding = "max_length" if name == "siglip" else True
    tokens = AutoTokenizer.from_pretrained(folders[name])(TEXTS, padding=padding, return_tensors="pt")
    masked = {} if name == "siglip" else {"attention_mask": tokens.attention_mask}
    with torch.no_grad():
        expected = model.get_text_features(tokens.input_ids, **masked).pooler_output
    torch.testing.assert_close(encoder.texts(TEXTS), normalize(expected), atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder.texts([TEXTS[1].upper()]), encoder.texts([TEXTS[1]]))
    assert encoder.unknown("A man") == [] and encoder.text_dim == encoder.dim


def test_a_folder_says_which_family_it_is(folders, tmp_path: Path):
    kinds = {name: type(open_encoder(folder)) for name, folder in folders.items()}
    assert kinds == {
        "clip": ClipEncoder, "siglip": SiglipEncoder, "dinov2": Dinov2Encoder, "registers": Dinov2Encoder,
    }  # fmt: skip
    with pytest.raises(StyleAvatarError, match="no CLIP model"):
        ClipEncoder.from_pretrained(folders["siglip"])
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip2"}))
    with pytest.raises(StyleAvatarError, match=r"(?s)no encoder of pictures.*siglip2.*DINOv2"):
        open_encoder(tmp_path)


def test_pictures_alone_have_no_texts(folders):
    encoder = open_encoder(folders["dinov2"])
    assert not encoder.has_texts and set(encoder.identity) == {"image"}
    for ask in (encoder.check, encoder.unknown, lambda text: encoder.texts([text])):
        with pytest.raises(StyleAvatarError, match=r"(?s)DINOv2 reads no texts.*data\.text_encoder"):
            ask("a man")


def test_a_bridge_reads_pictures_with_one_and_texts_with_another(folders):
    bridge, clip = open_bridge(folders["dinov2"], folders["clip"]), open_encoder(folders["clip"])
    images = tensors(pictures(42))
    assert (bridge.dim, bridge.text_dim) == (16, 12)
    torch.testing.assert_close(bridge.images(images), open_encoder(folders["dinov2"]).images(images))
    torch.testing.assert_close(bridge.texts(TEXTS), clip.texts(TEXTS))
    assert bridge.identity["text"] == clip.sha256 != bridge.identity["image"]
    with pytest.raises(StyleAvatarError, match="no text tower"):
        BridgedEncoder(clip, open_encoder(folders["dinov2"]))


def test_the_name_of_an_encoder_is_that_of_its_content(folders, tmp_path: Path):
    from transformers import AutoModel

    known = open_encoder(folders["clip"]).sha256
    halved = shutil.copytree(folders["clip"], tmp_path / "half")
    AutoModel.from_pretrained(folders["clip"]).half().save_pretrained(halved)
    assert open_encoder(halved).sha256 == known
    other = shutil.copytree(folders["clip"], tmp_path / "other")
    about = json.loads((other / "preprocessor_config.json").read_text())
    (other / "preprocessor_config.json").write_text(json.dumps(about | {"image_mean": [0.5, 0.5, 0.5]}))
    assert open_encoder(other).sha256 != known


@pytest.mark.parametrize(
    "change",
    [None, {"resample": 0}, {"do_normalize": False}, {"rescale_factor": 1.0}, {"image_std": None},
     {"size": {"height": 32, "width": 64}}, {"crop_size": {"height": 64, "width": 64}}, {"do_center_crop": False}],
)  # fmt: skip
def test_nothing_is_guessed_about_pictures(folders, tmp_path: Path, change: dict | None):
    folder = shutil.copytree(folders["dinov2" if change != {"do_center_crop": False} else "clip"], tmp_path / "copy")
    path = folder / "preprocessor_config.json"
    if change is None:
        path.unlink()
    elif change == {"do_center_crop": False}:
        path.write_text(json.dumps(json.loads(path.read_text()) | change | {"size": {"shortest_edge": 48}}))
        with pytest.raises(StyleAvatarError, match="do not belong together"):
            open_encoder(folder)
        return
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(StyleAvatarError, match="does not say how its pictures are prepared"):
        open_encoder(folder)


def test_weights_that_are_missing_are_not_drawn_at_random(folders, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(folders["siglip"], tmp_path / "copy")
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.startswith("text_model") and "mlp" in name)
    weights.pop(name)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(StyleAvatarError, match=f"(?s)lacks weights.*{name}"):
        open_encoder(folder)
