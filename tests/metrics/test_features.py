"""Feature networks say who they are, and a file that is none is refused."""

import importlib.util
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import save_file

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.metrics import features
from styleavatar3d.metrics.features import ClipFeatures, InceptionFeatures, open_features, read_weights

needs_inception = pytest.mark.skipif(
    importlib.util.find_spec("torch_fidelity") is None, reason="pip install --no-deps torch-fidelity"
)


def test_a_clip_is_named_by_its_weights(tmp_path: Path) -> None:
    tiny.write_clip(tmp_path)
    clip = open_features("clip", tmp_path)
    assert isinstance(clip, ClipFeatures) and clip.name.startswith("clip-16-")
    rows = clip(torch.zeros(2, 3, 32, 32))
    assert rows.shape == (2, 16) and torch.allclose(rows.norm(dim=1), torch.ones(2), atol=1e-5)
    clip.clip.model.visual_projection.weight.data[0, 0] += 1
    assert features.digest(clip.clip.model.state_dict()) not in clip.name


def test_features_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StyleAvatarError, match="no such features"):
        open_features("resnet", tmp_path)


def test_a_damaged_file_of_weights_is_refused_and_a_pickle_too(tmp_path: Path) -> None:
    (tmp_path / "damaged.safetensors").write_bytes(b"no weights at all")
    torch.save({}, tmp_path / "pickle.pth")
    for name in ("damaged.safetensors", "pickle.pth"):
        with pytest.raises(StyleAvatarError, match="cannot be read"):
            read_weights(tmp_path / name)


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    with features._inception_module() as module:
        torch.manual_seed(0)

        class Untrained(module.FeatureExtractorInceptionV3):
            def load_state_dict(self, weights, *_):
                self.drawn = {name: tensor.clone() for name, tensor in self.state_dict().items()}

        empty = features.io.BytesIO()
        torch.save({}, empty)
        empty.seek(0)
        return Untrained("inception", ["2048"], empty).drawn


@needs_inception
def test_inception_features_come_from_a_local_file(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    import sys

    file = tmp_path / "inception.safetensors"
    save_file(weights, file)
    network = open_features(str(file), tmp_path)
    assert isinstance(network, InceptionFeatures) and network.name.startswith("inception-2048-")
    rows = network(torch.stack([torch.full((3, 16, 16), value) for value in (-1.0, 1.0)]))
    assert rows.shape == (2, 2048) and rows.isfinite().all() and not torch.equal(rows[0], rows[1])
    assert "torchvision" not in sys.modules


@needs_inception
def test_weights_of_another_network_are_refused(weights: dict[str, torch.Tensor]) -> None:
    with pytest.raises(StyleAvatarError, match="not the weights of the FID Inception"):
        InceptionFeatures({name: tensor for name, tensor in weights.items() if "fc" not in name})


@needs_inception
def test_without_a_network_the_published_weights_are_not_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    def fail(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fail)
    with pytest.raises(StyleAvatarError, match="cannot be fetched"):
        open_features("inception", tmp_path)
