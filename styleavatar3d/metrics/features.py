"""The networks whose features are compared: a CLIP folder, or the Inception of the published FID numbers.

Numbers of two networks cannot be compared, so each says its `name`, which every result carries; none stands in for
another.
"""

import contextlib
import hashlib
import importlib
import importlib.util
import io
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from styleavatar3d.encoders.clip import ClipEncoder
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.runtime.media import to_uint8

INCEPTION = "inception"
_EXTRACTOR = "torch_fidelity.feature_extractor_inceptionv3"
_REMEDY = "pip install --no-deps torch-fidelity"


@runtime_checkable
class Features(Protocol):
    """Pictures in [-1, 1] -> one row of numbers each; `name` holds the kind, the width and a digest of the weights."""

    name: str

    def __call__(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch numbers"]: ...


def open_features(which: str, folder: str | Path) -> Features:
    """The CLIP in `folder` for "clip", the published Inception for "inception", else one with the weights of a
    file."""
    if which == "clip":
        return ClipFeatures(folder)
    if which == INCEPTION:
        return InceptionFeatures(_published_weights())
    path = Path(which)
    if not path.is_file():
        raise StyleAvatarError("there are no such features", got=which, expected="clip, inception, or a weights file")
    return InceptionFeatures(read_weights(path))


class ClipFeatures:
    """Unit vectors of a CLIP's picture tower."""

    def __init__(self, folder: str | Path):
        self.clip = ClipEncoder.from_pretrained(folder)
        self.name = f"clip-{self.clip.dim}-{digest(self.clip.model.state_dict())}"

    def __call__(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch numbers"]:
        return self.clip.images(images)


class InceptionFeatures:
    """The 2048 pooled numbers of the Inception v3 of the FID paper, by torch-fidelity, which resizes as it did."""

    def __init__(self, weights: dict[str, Tensor]):
        self.name = f"inception-2048-{digest(weights)}"
        file = io.BytesIO()
        torch.save(weights, file)  # the library reads pickles only: it is given one that was written here
        file.seek(0)
        with _inception_module() as module:
            try:
                self.network = module.FeatureExtractorInceptionV3("inception", ["2048"], file)
            except RuntimeError as error:
                raise StyleAvatarError(f"these are not the weights of the FID Inception: {error}") from None

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch numbers"]:
        return self.network(to_uint8(images))[0]


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors file. Raises StyleAvatarError for any other."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise StyleAvatarError(
            f"weights in {path} cannot be read: {error}", expected="a .safetensors file",
            remedy="a .pth of torch-fidelity becomes one by torch.load(..., weights_only=True) and save_file",
        ) from None  # fmt: skip


def _published_weights() -> dict[str, Tensor]:
    """Fetched once into torch's own cache, and checked against the digest in their name."""
    with _inception_module() as module:
        url = module.URL_INCEPTION_V3
    try:
        return torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise StyleAvatarError(
            f"the Inception weights cannot be fetched: {error}", got=url, expected="a network, or a file",
            remedy="--features FILE with these weights, or --features clip",
        ) from None  # fmt: skip


@contextlib.contextmanager
def _inception_module() -> Iterator[Any]:
    """torch-fidelity's Inception alone: the package imports torchvision, which breaks beside a torch of another build
    and which the Inception does not need."""
    found = importlib.util.find_spec("torch_fidelity")
    if found is None or found.submodule_search_locations is None:
        raise StyleAvatarError("Inception features need torch-fidelity", remedy=_REMEDY)
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "torch_fidelity"}
    package = types.ModuleType("torch_fidelity")
    package.__path__ = list(found.submodule_search_locations)
    sys.modules["torch_fidelity"] = package
    try:
        yield importlib.import_module(_EXTRACTOR)
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torch_fidelity"]:
            del sys.modules[name]
        sys.modules.update(before)


def digest(weights: dict[str, Tensor]) -> str:
    """12 hex digits that name these weights."""
    whole = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        whole.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        whole.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()[:12]
