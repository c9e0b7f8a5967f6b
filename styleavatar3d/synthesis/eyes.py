"""Who looks at a synthesised picture for the gates: from where it is seen, if a face shows, if it says the prompt.

An eye answers some of "view", "face" and "text" with a number a picture, NaN where it cannot tell. None of them is the
judge that `evaluate` measures with: a gate that asks the judge would be graded by itself.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from styleavatar3d.camera.cameras import SECTORS
from styleavatar3d.encoders.clip import ClipEncoder
from styleavatar3d.encoders.estimators import Estimator
from styleavatar3d.errors import StyleAvatarError, require
from styleavatar3d.shards.schema import Record
from styleavatar3d.synthesis.prompts import wording

Answers = dict[str, Float[Tensor, "batch"]]
"""view: degrees between the view seen and the one asked for; face: probability that one shows; text: agreement with
the prompt."""

MOST_SEEN = 60.0
"""Degrees of |yaw| up to which MediaPipe finds nearly every face."""
_UNSAID = ("none", "no", "human")


@runtime_checkable
class Eye(Protocol):
    """Anything that answers; `answers` names what."""

    answers: frozenset[str]

    def look(self, images: UInt8[Tensor, "batch 3 height width"], asked: Sequence[Record]) -> Answers:
        """One number a picture for each of `answers`; the records say what was asked for."""
        ...


class MiniatureEye:
    """The miniature's own estimator. Its text score is the share of the stated attributes, style too, that it reads."""

    answers = frozenset({"view", "face", "text"})

    def __init__(self, estimator: Estimator):
        self.estimator, self.device = estimator, next(estimator.parameters()).device

    def look(self, images: UInt8[Tensor, "batch 3 height width"], asked: Sequence[Record]) -> Answers:
        """See `Eye`."""
        seen = self.estimator.estimate(images.to(self.device).float() / 127.5 - 1)
        yaw = torch.tensor([record.yaw for record in asked])
        text = [_agreement(words, record) for words, record in zip(seen.words, asked, strict=True)]
        return {"view": turned(seen.yaw.cpu(), yaw), "face": seen.face.cpu(), "text": torch.tensor(text)}


class ClipEye:
    """Zero-shot: a softmax over the words of eight views says the view, a cosine with the prompt says the text.

    Most CLIP models cannot tell left from right; unless `sides`, only |yaw| is compared.
    """

    answers = frozenset({"view", "face", "text"})

    def __init__(self, clip: ClipEncoder, views: Sequence[str], sides: bool = False):
        self.clip, self.sides = clip, sides
        self.views = clip.texts([f"avatar of a person, {words}" for words in views])
        self.sharpness = clip.model.logit_scale.exp()
        self.yaw = torch.arange(len(views)) * 360.0 / len(views)

    def look(self, images: UInt8[Tensor, "batch 3 height width"], asked: Sequence[Record]) -> Answers:
        """See `Eye`. The view is the mean over the softmax of how far each of the eight is from the asked one."""
        seen = self.clip.images(images.float() / 127.5 - 1)
        share = (self.sharpness * seen @ self.views.T).softmax(1).cpu()
        yaw = torch.tensor([record.yaw for record in asked])[:, None]
        away = turned(self.yaw, yaw) if self.sides else (turned(self.yaw, 0) - turned(yaw, 0)).abs()
        text = (seen * self.clip.texts([record.prompt for record in asked])).sum(1).cpu()
        return {"view": (share * away).sum(1), "face": share[:, turned(self.yaw, 0) <= 90].sum(1), "text": text}


class MediaPipeEye:
    """Google's Face Landmarker, on the CPU; its model file is had apart. It knows no text.

    The package (Apache-2.0) sends metrics of its use, though no picture, to Google: its own privacy notice says so.

    It finds faces from the front, and rarely profiles: where it finds none it cannot tell the view, unless the view
    asked for is one of those in which it does.
    """

    answers = frozenset({"view", "face"})

    def __init__(self, landmarker: Any):
        self.landmarker = landmarker

    @classmethod
    def from_file(cls, path: Path) -> "MediaPipeEye":
        """Read a `face_landmarker.task`; StyleAvatarError where that or the package is not there."""
        tasks = require("mediapipe.tasks.python", "gates")
        options = tasks.vision.FaceLandmarkerOptions(
            base_options=tasks.BaseOptions(model_asset_path=str(path)), output_facial_transformation_matrixes=True
        )
        try:
            return cls(tasks.vision.FaceLandmarker.create_from_options(options))
        except (ValueError, RuntimeError, OSError) as error:
            raise StyleAvatarError(f"MediaPipe cannot read its model: {error}", got=str(path)) from error

    def look(self, images: UInt8[Tensor, "batch 3 height width"], asked: Sequence[Record]) -> Answers:
        """See `Eye`."""
        found = [self._yaw(image) for image in images]
        view = [view_error(yaw, record.yaw) for yaw, record in zip(found, asked, strict=True)]
        return {"view": torch.tensor(view), "face": torch.tensor([float(yaw is not None) for yaw in found])}

    def _yaw(self, image: UInt8[Tensor, "3 height width"]) -> float | None:
        mediapipe = require("mediapipe", "gates")
        array = image.permute(1, 2, 0).contiguous().cpu().numpy()
        seen = self.landmarker.detect(mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=array))
        matrices = seen.facial_transformation_matrixes
        return yaw_of_face(torch.as_tensor(matrices[0])) if len(matrices) else None


def open_eye(
    kind: Literal["miniature", "clip", "mediapipe"], path: Path, words: str, device: str | torch.device = "cpu"
) -> Eye:
    """Load an eye. `words` is "full" or "miniature": whose view words CLIP compares with."""
    if kind == "miniature":
        return MiniatureEye(Estimator.from_pretrained(path, device))
    if kind == "mediapipe":
        return MediaPipeEye.from_file(path)
    said = wording()["full"] if words == "full" else wording()
    views = [said["views"][sector]["words"] for sector in SECTORS]
    return ClipEye(ClipEncoder.from_pretrained(path, device), views, sides=words == "miniature")


def turned(a: Float[Tensor, "*shape"], b: Float[Tensor, "*other"] | float) -> Float[Tensor, "*both"]:
    """Degrees, 0..180, between two yaws."""
    return ((a - b + 180) % 360 - 180).abs()


def view_error(face: float | None, asked: float) -> float:
    """Degrees between the yaw of a found face and the one asked for; NaN where none is found and none need be."""
    if face is None:
        return 180.0 if abs(asked) <= MOST_SEEN else math.nan
    return abs((face - asked + 180) % 360 - 180)


def yaw_of_face(matrix: Float[Tensor, "4 4"]) -> float:
    """Our yaw, in degrees, of a face whose pose is MediaPipe's (x right, y up, z towards the camera)."""
    forward = matrix[:3, 2].double()
    return math.degrees(math.atan2(-forward[0], forward[2]))


def _agreement(words: dict[str, str], record: Record) -> float:
    asked = record.attributes | {"style": record.style}
    stated = {name: value for name, value in asked.items() if value not in _UNSAID and name in words}
    return sum(words[name] == value for name, value in stated.items()) / len(stated) if stated else math.nan
