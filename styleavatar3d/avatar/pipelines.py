"""From a prompt, a picture or a seed to an avatar: CLIP, the style prior and the generator, in one call."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from styleavatar3d.assets import assets
from styleavatar3d.avatar.avatar import Avatar
from styleavatar3d.avatar.pictures import Picture, read_picture
from styleavatar3d.camera.cameras import orbit_labels
from styleavatar3d.encoders.clip import ClipEncoder
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.gan.generator import Generator
from styleavatar3d.runtime.distributed import default_device
from styleavatar3d.runtime.licences import NOT_STATED, stated_licences
from styleavatar3d.runtime.random import normal
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.stylespace.codes import generator_sha256
from styleavatar3d.stylespace.diffusion import Modality, StylePrior

_VIEWS_AT_ONCE = 16
Part = TypeVar("Part")


class AvatarPipeline:
    """Everything that makes avatars. `prior` and `clip` may be None: then only seeds can be asked for."""

    def __init__(
        self,
        generator: Generator,
        prior: StylePrior | None,
        clip: ClipEncoder | None,
        name: str = "",
        licences: Sequence[str] = (NOT_STATED,),
    ):
        self.generator, self.prior, self.clip = generator, prior, clip
        self.sha256 = generator_sha256(generator)
        self.name, self.licences = name, list(licences)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path | None = None,
        seeds_only: bool = False,
        device: str | torch.device | None = None,
    ) -> "AvatarPipeline":
        """Load `generator/`, `stylespace/` and `clip/` of a folder; without one, the shipped weights.

        `seeds_only` loads the generator alone, which spares the heavy imports of the other two. The device is the GPU
        if there is one, unless it is named.
        """
        root = Path(folder) if folder else assets() / "data" / "miniature"
        if not (root / "generator").is_dir():
            raise StyleAvatarError(
                "this folder holds no avatar pipeline",
                got=str(root),
                expected="a folder with generator/, stylespace/ and clip/",
                remedy="leave the folder out to use the shipped weights",
            )
        device = device or default_device()
        generator = Generator.from_pretrained(str(root / "generator"), device)
        licences = stated_licences(Storage.open(str(root / "generator")))
        if seeds_only:
            return cls(generator, None, None, root.name, licences)
        prior = StylePrior.from_pretrained(root / "stylespace", generator_sha256(generator))
        return cls(generator, prior.to(device), ClipEncoder.from_pretrained(root / "clip", device), root.name, licences)

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        image: Picture | Sequence[Picture] | None = None,
        seed: int | Sequence[int] | None = None,
        truncation: float = 0.7,
        guidance: float = 2.0,
        candidates: int = 8,
    ) -> Avatar | list[Avatar]:
        """An avatar, or as many as there are prompts, pictures or seeds in a list.

        Args:
            prompt: what it should look like; or
            image: a picture of somebody (path, PIL image, array), or
            seed: a plain draw from the generator. With a prompt or a picture, the seed of the candidates (default 0).
            truncation: pulls codes towards the mean: 1 varied, 0 the mean avatar
            guidance: of the style prior; 1 follows the condition as trained, more insists on it
            candidates: codes drawn for each prompt or picture; CLIP keeps the one whose front view is nearest to it
        """
        given = {name: value for name, value in (("prompt", prompt), ("image", image)) if value is not None}
        if len(given) > 1 or (not given and seed is None):
            raise StyleAvatarError(
                "one thing has to be asked for",
                got=", ".join(given) or "nothing",
                expected="a prompt, an image or a seed",
            )
        _check_numbers(truncation, candidates)
        if given:
            [(kind, asked)] = given.items()
            settings = {"truncation": truncation, "guidance": guidance, "candidates": candidates, "seed": seed or 0}
            make = partial(self._from_text if kind == "prompt" else self._from_picture, settings=settings)
        else:
            asked, make = seed, partial(self._from_seed, settings={"truncation": truncation})
        return [make(one) for one in asked] if isinstance(asked, (list, tuple, range)) else make(asked)

    @torch.inference_mode()
    def _from_seed(self, seed: Any, settings: dict[str, Any]) -> Avatar:
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise StyleAvatarError("this is no seed", got=seed, expected="a whole number")
        z = normal(seed, "avatar", 0, (1, self.generator.config.z_dim)).to(self.generator.w_mean)
        codes = self.generator.mapping(z, truncation=settings["truncation"])
        return self._avatar(codes[0], {"seed": seed, **settings})

    def _from_text(self, prompt: Any, settings: dict[str, Any]) -> Avatar:
        if not isinstance(prompt, str):
            raise StyleAvatarError("this is no prompt", got=type(prompt).__name__, expected="a text")
        return self._from_embedding(self._encoder.texts([prompt]), "text", {"prompt": prompt}, settings)

    def _from_picture(self, picture: Any, settings: dict[str, Any]) -> Avatar:
        pixels = read_picture(picture, self.generator.config.image_resolution)
        origin = str(picture) if isinstance(picture, (str, Path)) else type(picture).__name__
        return self._from_embedding(self._encoder.images(pixels[None]), "image", {"image": origin}, settings)

    @torch.inference_mode()
    def _from_embedding(
        self, embedding: Float[Tensor, "1 clip"], modality: Modality, asked: dict[str, Any], settings: dict[str, Any]
    ) -> Avatar:
        prior, clip = self._prior, self._encoder
        many = embedding.expand(settings["candidates"], -1)
        codes = prior.sample(many, settings["guidance"], settings["seed"], modality=modality)
        codes = self.generator.w_mean + settings["truncation"] * (codes - self.generator.w_mean)
        views = prior.statistics.condition(clip.images(self._fronts(codes)))
        likeness = torch.cosine_similarity(views, prior.statistics.condition(embedding, modality))
        best = int(likeness.argmax())
        return self._avatar(codes[best], {**asked, **settings, "likeness": round(float(likeness[best]), 4)})

    def _fronts(self, codes: Float[Tensor, "batch slots w"]) -> Float[Tensor, "batch 3 height width"]:
        views = []
        for some in codes.split(_VIEWS_AT_ONCE):
            front = orbit_labels(torch.zeros(len(some)), torch.zeros(len(some))).to(codes.device)
            views.append(self.generator.render(self.generator.planes(some), front, codes=some).image)
        return torch.cat(views)

    @property
    def _prior(self) -> StylePrior:
        return _loaded(self.prior)

    @property
    def _encoder(self) -> ClipEncoder:
        return _loaded(self.clip)

    def _avatar(self, codes: Tensor, asked: dict[str, Any]) -> Avatar:
        about = {
            "made_by": "a machine (StyleAvatar3D)",
            "request": asked,
            "models": {"pipeline": self.name, "generator_sha256": self.sha256},
            "licences": self.licences,
        }
        return Avatar(codes.clone(), self.generator, about)


def _check_numbers(truncation: float, candidates: int) -> None:
    if not (0 <= truncation <= 2 and 1 <= candidates <= 256):
        got = f"truncation {truncation}, candidates {candidates}"
        raise StyleAvatarError(
            "these settings are out of range", got=got, expected="truncation in [0, 2], candidates in [1, 256]"
        )


def _loaded(part: Part | None) -> Part:
    if part is None:
        raise StyleAvatarError("this pipeline was loaded for seeds only", remedy="load it without seeds_only")
    return part
