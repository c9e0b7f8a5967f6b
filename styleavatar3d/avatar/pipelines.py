"""From a prompt, a picture, attributes or a seed to an avatar: CLIP, the style prior and the generator, in one call."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from styleavatar3d.assets import assets
from styleavatar3d.avatar.avatar import Avatar
from styleavatar3d.avatar.pictures import Picture, read_picture
from styleavatar3d.avatar.ranking import Goal, Start, likeness, nearness, score
from styleavatar3d.avatar.requests import Request, spread
from styleavatar3d.encoders.encoder import Encoder
from styleavatar3d.encoders.estimators import Estimator
from styleavatar3d.encoders.families import BridgedEncoder, open_bridge
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.gan.classic import ClassicGenerator
from styleavatar3d.gan.generator import Generator
from styleavatar3d.miniature.stated import stated_attributes
from styleavatar3d.runtime.distributed import default_device
from styleavatar3d.runtime.licences import NOT_STATED, stated_licences
from styleavatar3d.runtime.random import normal
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.runtime.weights import CONFIG_FILE, weights_sha256
from styleavatar3d.stylespace import attributes as words
from styleavatar3d.stylespace.denoiser import Conditions
from styleavatar3d.stylespace.diffusion import Guidance, StylePrior

_VIEWS_AT_ONCE = 16
_SHORTLIST, _SIDES = 12, (-30.0, 30.0)
"""How many candidates are looked at from the sides, and from which, in degrees."""
_SAMPLES = 12
"""Pictures to choose by have half of a generator's samples, but no fewer than these: 27 of 28
choices of the prior before this one were the same."""
_LONGEST_STEP = 5.0
"""With strength 1, in differences that a change makes. Two of them left, of the prior before this one, one avatar in
six known among 100."""
Part = TypeVar("Part")


class AvatarPipeline:
    """Everything that makes avatars. `prior` and `clip` may be None: then only seeds can be asked for.

    Without an `estimator` attributes cannot be checked: candidates are then ranked by CLIP alone.
    """

    def __init__(
        self,
        generator: Generator | ClassicGenerator,
        prior: StylePrior | None,
        clip: Encoder | BridgedEncoder | None,
        name: str = "",
        licences: Sequence[str] = (NOT_STATED,),
        estimator: Estimator | None = None,
    ):
        self.generator, self.prior, self.clip, self.estimator = generator, prior, clip, estimator
        self.sha256 = weights_sha256(generator)
        self.name, self.licences = name, list(licences)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path | None = None,
        seeds_only: bool = False,
        device: str | torch.device | None = None,
    ) -> "AvatarPipeline":
        """Load `generator/`, `stylespace/`, `clip/` (any encoder of pictures) and, where they are, `text_encoder/` and
        `estimators/` of a folder; without a folder, the shipped weights. A folder without `stylespace/`, or that of a
        generator alone, such as an import, makes avatars from seeds.

        `seeds_only` loads the generator alone, which spares the heavy imports of the others. The device is the GPU
        if there is one, unless it is named.
        """
        root = Path(folder) if folder else assets() / "data" / "miniature"
        home = root / "generator" if (root / "generator").is_dir() else root
        if not (home / CONFIG_FILE).is_file():
            raise StyleAvatarError(
                "this folder holds no avatar pipeline",
                got=str(root),
                expected="a folder with generator/, stylespace/ and clip/, or that of a generator",
                remedy="leave the folder out to use the shipped weights",
            )
        device = device or default_device()
        generator = Generator.from_pretrained(str(home), device)
        licences = stated_licences(Storage.open(str(home)))
        if seeds_only or not (root / "stylespace").is_dir():
            return cls(generator, None, None, root.name, licences)
        reader = root / "text_encoder"
        clip = open_bridge(root / "clip", reader if reader.is_dir() else "", device)
        prior = StylePrior.from_pretrained(root / "stylespace", weights_sha256(generator), clip.identity)
        eye = root / "estimators"
        estimator = Estimator.from_pretrained(eye, device) if eye.is_dir() else None
        return cls(generator, prior.to(device), clip, root.name, licences, estimator)

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        image: Picture | Sequence[Picture] | None = None,
        seed: int | Sequence[int] | None = None,
        truncation: float | None = None,
        guidance: Guidance | None = None,
        candidates: int = 48,
        *,
        attributes: Mapping[str, str] | Sequence[Mapping[str, str]] | None = None,
        negative: str = "",
        start: Avatar | Sequence[Avatar] | None = None,
        strength: float = 0.6,
        number: int = 1,
        steps: int = 8,
    ) -> Avatar | list[Avatar]:
        """An avatar; a list of as many as there are prompts, pictures, seeds ... in a list, times `number`.

        What the arguments mean is said at `Request`. Of a picture the provenance says how near the avatar came to it
        ("likeness", of -1 to 1), and "warning" if that is no nearer than strangers are.
        """
        asked = {"prompt": prompt, "image": image, "seed": seed, "attributes": attributes or {}, "start": start}
        settings = {"truncation": truncation, "guidance": guidance, "candidates": candidates, "negative": negative}
        requests, several = spread(asked | settings | {"strength": strength, "number": number, "steps": steps})
        made = [avatar for request in requests for avatar in self.make(request)]
        return made if several or number > 1 else made[0]

    def make(self, request: Request) -> list[Avatar]:
        """The avatars of one request."""
        first = request.seed or 0
        seeds = range(first, first + request.number)
        if not request.conditional:
            return [self._from_seed(seed, request) for seed in seeds]
        goal = self._goal(request)
        return [self._from_goal(goal, seed, request) for seed in seeds]

    @torch.inference_mode()
    def choose(self, request: Request, codes: Float[Tensor, "candidates slots w"]) -> Avatar:
        """The avatar of the one of these codes that comes nearest to a request, ranked as what the prior draws is."""
        return self._chosen(self._goal(request), codes, request.seed or 0, request)

    @torch.inference_mode()
    def _from_seed(self, seed: int, request: Request) -> Avatar:
        z = normal(seed, "avatar", 0, (1, self.generator.config.z_dim)).to(self.generator.w_mean)
        codes = self.generator.mapping(z, truncation=request.pull)
        return self._avatar(codes[0], request.told() | {"seed": seed})

    @torch.inference_mode()
    def _goal(self, request: Request) -> Goal:
        """What the request asks for, in embeddings and words."""
        clip = _loaded(self.clip)
        changed = request.words
        if request.prompt is not None:
            clip.check(request.prompt)
        image = features = None
        if request.image is not None:
            picture = read_picture(request.image, self.generator.config.image_resolution)[None]
            image = clip.images(picture)
            features = self.estimator.features(picture) if self.estimator else None
        if request.start is None:
            text = clip.texts([request.prompt]) if request.prompt is not None else None
            goal = Goal(image, text, changed, changed)
        else:
            goal = self._edit(request, changed, image)
        return goal._replace(features=features)

    def _edit(self, request: Request, changed: dict[str, str], image: Tensor | None) -> Goal:
        """The start's own look, changed where the request says so."""
        clip, start = _loaded(self.clip), request.start
        if not changed and image is None:
            raise StyleAvatarError(
                "the prompt names nothing that could be changed", got=request.prompt,
                expected="an attribute, such as: with a beard; hair blue; without glasses",
            )  # fmt: skip
        if self.estimator is None:
            raise StyleAvatarError(
                "without an estimator nobody knows what the avatar looks like", got="no estimators/ in the pipeline",
                remedy="copy data/miniature/estimators into its folder, or leave out `start`",
            )  # fmt: skip
        code = start.codes[None].to(self.generator.w_mean)
        front, *sides = (self._seen(code, yaw) for yaw in (0.0, *_SIDES))
        logits = words.read(self.estimator, front)
        now, shown = words.likeliest(logits), words.seen_from_the_front(logits)
        then = words.changed(now, changed)
        kept = {name: word for name, word in shown.items() if then[name] == word}
        looks, texts = clip.images(front), clip.texts([words.caption(now, shown), words.caption(then, kept | changed)])
        before = Start(looks, texts[:1], shown, words.shown(self.estimator, [front, *sides]))
        return Goal(looks if image is None else image, texts[1:], kept | changed, changed, before)

    @torch.inference_mode()
    def _from_goal(self, goal: Goal, seed: int, request: Request) -> Avatar:
        start = request.start
        if start is None:
            codes = self._drawn(goal, seed, request, request.candidates)
            codes = self.generator.w_mean + request.pull * (codes - self.generator.w_mean)
        else:
            away = self._moved if goal.changed else self._noised
            codes = away(start.codes[None].to(self.generator.w_mean), goal, seed, request)
        return self._chosen(goal, codes, seed, request)

    def _drawn(self, goal: Goal, seed: int, request: Request, count: int, **more: Any) -> Tensor:
        """Codes that the prior draws for a goal; equal seeds draw from equal noise."""
        return _loaded(self.prior).sample(
            self._conditions(goal, count), request.scale, seed, request.steps,
            unwanted=self._unwanted(request.negative, count), **more,
        )  # fmt: skip

    def _moved(self, start: Float[Tensor, "1 slots w"], goal: Goal, seed: int, request: Request) -> Tensor:
        """The start, moved by the difference that the change makes to what the prior draws from the same noise.

        Half of the candidates are drawn without the start's picture, which holds on to what should change. Their steps
        go from short ones to the longest that the strength allows.
        """
        assert goal.before
        before = goal._replace(**{name: getattr(goal.before, name) for name in ("image", "text", "words")})
        told, count, moved = [(goal, before)], request.candidates, []
        if request.image is None:
            told.insert(0, (goal._replace(image=None), before._replace(image=None)))
        steps = _LONGEST_STEP * request.strength * (torch.arange(count).to(start) + 0.5) / count
        for i, (then, now) in enumerate(told[:count]):
            some = steps[i :: len(told), None, None]
            difference = self._drawn(then, seed, request, len(some)) - self._drawn(now, seed, request, len(some))
            moved.append(start + some * difference)
        return torch.cat(moved)

    def _noised(self, start: Float[Tensor, "1 slots w"], goal: Goal, seed: int, request: Request) -> Tensor:
        """The start, part of the way to pure noise and back towards a picture."""
        count, strength = request.candidates, request.strength
        return self._drawn(goal, seed, request, count, start=start.expand(count, -1, -1), strength=strength)

    def _chosen(self, goal: Goal, codes: Float[Tensor, "candidates slots w"], seed: int, request: Request) -> Avatar:
        prior = _loaded(self.prior)
        best, near = self._nearest(goal, codes)
        about = request.told() | {"seed": seed, "likeness": round(near, 4)}
        if request.image is not None and prior.strangers is not None and near < prior.strangers:
            about["warning"] = "no nearer to the picture than strangers are: it is far from what was trained on"
        return self._avatar(codes[best], about)

    def _nearest(self, goal: Goal, codes: Float[Tensor, "candidates slots w"]) -> tuple[int, float]:
        """The candidate that comes nearest to what was asked for, and how like it is: to the picture, if there is one.

        Words are looked for in all front views first, then in the best few from either side too: a picture of a
        generator is not quite a render, and what an estimator says of a single one wavers.
        """
        prior, fronts = _loaded(self.prior), self._seen(codes)
        seen = prior.statistics.image(_loaded(self.clip).images(fronts))
        near = likeness(goal, seen, prior.statistics)
        few, shown, alike = torch.arange(len(codes)), None, near
        if self.estimator and goal.features is not None:
            alike = nearness(near, self.estimator.features(fronts), goal.features)
        if self.estimator and goal.words:
            few = score(goal, alike, words.shown(self.estimator, [fronts])).topk(min(_SHORTLIST, len(codes))).indices
            sides = [self._seen(codes[few], yaw) for yaw in _SIDES]
            shown = words.shown(self.estimator, [fronts[few], *sides])
        best = int(few[score(goal, alike[few], shown).argmax()])
        told = goal if goal.image is None else goal._replace(text=None)
        return best, float(likeness(told, seen[best : best + 1], prior.statistics))

    def _conditions(self, goal: Goal, count: int) -> Conditions:
        prior = _loaded(self.prior)
        known = {"image": goal.image, "text": goal.text}
        given = {name: value.expand(count, -1) for name, value in known.items() if value is not None}
        if goal.words and prior.knows_attributes:
            given["attributes"] = words.encode([goal.words]).expand(count, -1)
        if not given:
            raise StyleAvatarError(
                "this style prior knows no attributes", got=", ".join(goal.words), expected="a prompt or an image",
                remedy="train it with data.estimators",
            )  # fmt: skip
        return prior.conditions(**given)

    def _unwanted(self, negative: str, count: int) -> Conditions | None:
        if not negative:
            return None
        prior, text = _loaded(self.prior), _loaded(self.clip).texts([negative]).expand(count, -1)
        named = stated_attributes(negative)
        known = words.encode([named]).expand(count, -1) if named and prior.knows_attributes else None
        return prior.conditions(text=text, attributes=known)

    def _seen(self, codes: Float[Tensor, "batch slots w"], yaw: float = 0.0) -> Float[Tensor, "batch 3 height width"]:
        """Pictures of codes to choose by, from the front or from `yaw` degrees beside it."""
        config: Any = self.generator.config
        samples = tuple(max(count // 2, min(count, _SAMPLES)) for count in config.samples)
        views = []
        for some in codes.split(_VIEWS_AT_ONCE):
            camera = self.generator.orbit(torch.full((len(some),), yaw), torch.zeros(len(some))).to(codes.device)
            planes: Any = self.generator.planes(some)
            views.append(self.generator.render(planes, camera, samples=samples, codes=some).image)
        return torch.cat(views)

    def _avatar(self, codes: Tensor, asked: dict[str, Any]) -> Avatar:
        about = {
            "made_by": "a machine (StyleAvatar3D)",
            "request": asked,
            "models": {"pipeline": self.name, "generator_sha256": self.sha256},
            "licences": self.licences,
        }
        return Avatar(codes.clone(), self.generator, about)


def _loaded(part: Part | None) -> Part:
    if part is None:
        raise StyleAvatarError(
            "this pipeline has no style prior: it makes avatars from seeds only", got="a prompt, picture or attributes",
            expected="seeds",
            remedy="load it without seeds_only; a bare generator gets its prior from `styleavatar3d train stylespace`, "
            "which an imported one cannot have",
        )  # fmt: skip
    return part
