"""The style prior: a diffusion model over the generator's codes, conditioned on pictures, texts and attributes.

It stands in for the mapping network (StyleAvatar3D, section 3.4): what is asked for becomes a code without any fit.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.runtime.random import normal
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.runtime.weights import load_weights, read_json, save_weights
from styleavatar3d.shards.schema import Model
from styleavatar3d.stylespace import attributes as words
from styleavatar3d.stylespace.config import DenoiserConfig
from styleavatar3d.stylespace.denoiser import CONDITIONS, Conditions, Denoiser
from styleavatar3d.stylespace.noise import NoiseSchedule
from styleavatar3d.stylespace.statistics import Statistics

Guidance = float | Mapping[str, float]


class StylePrior(nn.Module):
    """Denoiser, noise schedule and statistics; it belongs to one generator and its encoders, known by their sha256."""

    def __init__(
        self,
        config: DenoiserConfig,
        statistics: Statistics,
        slots: int,
        generator_sha256: str,
        knows_attributes: bool = True,
        strangers: float | None = None,
        encoders: Mapping[str, Model] | None = None,
    ):
        """`knows_attributes`: whether it was trained on any. `strangers`: how near, as a cosine, the nearest twentieth
        of avatars are to a picture that they were not made for; None if nobody has measured it. `encoders`: who
        read its pictures ("image") and texts ("text"); None in priors from before that was recorded."""
        super().__init__()
        self.knows_attributes, self.strangers = knows_attributes, strangers
        self.encoders = dict(encoders) if encoders else None
        w_dim, embedded = len(statistics.w_mean), len(statistics.image_mean) + len(statistics.text_mean)
        self.config, self.statistics, self.slots, self.generator_sha256 = config, statistics, slots, generator_sha256
        self.tokens = slots if config.space == "w+" else 1
        self.denoiser = Denoiser(
            w_dim, self.tokens, embedded, words.NUMBERS, config.width, config.layers, config.heads
        )  # fmt: skip
        self.noise = NoiseSchedule(config.prediction)

    def conditions(
        self,
        image: Float[Tensor, "batch clip"] | None = None,
        text: Float[Tensor, "batch text"] | None = None,
        attributes: Float[Tensor, "batch words"] | None = None,
    ) -> Conditions:
        """What is asked for, from unit embeddings and `attributes.encode`; what is None is unknown."""
        asked = dict(zip(CONDITIONS, (image, text, attributes), strict=True))
        counts = {len(value) for value in asked.values() if value is not None}
        if len(counts) != 1:
            what = "conditions of different numbers of avatars" if counts else "no condition was given"
            raise StyleAvatarError(what, got=str(sorted(counts)), expected=f"one or more of {', '.join(CONDITIONS)}")
        like, [count], known = self.statistics.w_mean, counts, []
        widths = len(self.statistics.image_mean), len(self.statistics.text_mean), words.NUMBERS
        for (name, value), width in zip(asked.items(), widths, strict=True):
            if value is not None and value.shape[1] != width:
                raise StyleAvatarError(
                    f"the {name} condition does not fit the style prior",
                    got=tuple(value.shape), expected=f"[batch, {width}]",
                    remedy="use the encoders it was trained with",
                )  # fmt: skip
            known.append(like.new_zeros(count, width) if value is None else value.to(like))
        present = torch.tensor([[float(value is not None) for value in asked.values()]], device=like.device)
        picture, prompt, numbers = known
        return Conditions(
            self.statistics.image(picture), self.statistics.text(prompt), numbers, present.expand(count, -1)
        )

    def loss(
        self,
        standard: Float[Tensor, "batch tokens w"],
        conditions: Conditions,
        level: Float[Tensor, "batch"],
        noise: Float[Tensor, "batch tokens w"],
        denoiser: Callable[[Tensor, Tensor, Conditions], Tensor] | None = None,
    ) -> Float[Tensor, ""]:
        """Mean squared error of what a denoiser (the prior's own by default) predicts at noise levels in [0, 1)."""
        noisy, time, target = self.noise.lesson(standard, noise, level)
        return ((denoiser or self.denoiser)(noisy, time, conditions) - target).square().mean()

    def predict(
        self,
        noisy: Float[Tensor, "batch tokens w"],
        time: Float[Tensor, ""],
        wanted: Conditions,
        guidance: Guidance = 1.0,
        unwanted: Conditions | None = None,
    ) -> Float[Tensor, "batch tokens w"]:
        """Classifier-free guidance: f(0) + guidance * (f(y) - f(0)); 1 is the conditional prediction itself.

        With a scale for each condition, they come one by one, f(0) + a (f(y1) - f(0)) + b (f(y1, y2) - f(y1)), as in
        InstructPix2Pix (arXiv:2211.09800). What is `unwanted` takes the place of nothing (a negative prompt).
        At a given noisy code noise, code and velocity are affine in each other, so that extrapolating any of them
        extrapolates all.
        """
        nothing = unwanted or wanted.only()
        steps = _steps(wanted, guidance)
        if [scale for _, scale in steps] == [1.0]:
            return self.denoiser(noisy, time.expand(len(noisy)), wanted)
        together = Conditions.together([nothing, *(known for known, _ in steps)])
        count = len(steps) + 1
        predictions = self.denoiser(noisy.repeat(count, 1, 1), time.expand(count * len(noisy)), together).chunk(count)
        guided = predictions[0]
        for i, (_, scale) in enumerate(steps):
            guided = guided + scale * (predictions[i + 1] - predictions[i])
        return guided

    @torch.no_grad()
    def sample(
        self,
        wanted: Conditions,
        guidance: Guidance = 2.0,
        seed: int = 0,
        steps: int = 8,
        unwanted: Conditions | None = None,
        start: Float[Tensor, "batch slots w"] | None = None,
        strength: float = 1.0,
        scheduler: str = "",
    ) -> Float[Tensor, "batch slots w"]:
        """Codes for conditions. Row i draws its noise from (seed, i).

        From `start` only the share `strength` of the way to pure noise is gone there and back (SDEdit,
        arXiv:2108.01073). `scheduler` is the name of a class of diffusers, instead of the prior's own.
        """
        _check(guidance, steps, strength)
        standard = None if start is None else self.statistics.standard_code(start[:, : self.tokens])
        noise = normal(seed, "style", 0, (len(wanted.present), self.tokens, len(self.statistics.w_mean)))

        def predict(noisy: Tensor, time: Tensor) -> Tensor:
            return self.predict(noisy, time, wanted, guidance, unwanted)

        code = self.noise.walk_back(predict, noise.to(self.statistics.w_mean), steps, standard, strength, scheduler)
        return self.statistics.code(code).expand(-1, self.slots, -1).contiguous()

    # --- files ---

    def save_pretrained(self, folder: str | Path) -> None:
        """Half-precision safetensors and config.json, in a folder or s3:// prefix."""
        config = {
            "denoiser": self.config.model_dump(mode="json", exclude={"start", "attention"}),
            "w_dim": len(self.statistics.w_mean), "clip_dim": len(self.statistics.image_mean),
            "text_dim": len(self.statistics.text_mean), "slots": self.slots,
            "words": words.NUMBERS, "generator_sha256": self.generator_sha256,
            "knows_attributes": self.knows_attributes, "strangers": self.strangers,
        }  # fmt: skip
        if self.encoders:
            config["encoders"] = {role: model.model_dump() for role, model in self.encoders.items()}
        save_weights(Storage.open(str(folder)), self, config)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, generator_sha256: str | None = None, encoders: Mapping[str, str] | None = None
    ) -> "StylePrior":
        """Load a prior from a folder or s3:// prefix.

        Refuses it if it belongs to a generator of another sha256, or to other `encoders` (their `identity`) than these.
        """
        storage = Storage.open(str(folder))
        about = _read_config(storage)
        if generator_sha256 not in (None, about["generator_sha256"]):
            raise StyleAvatarError(
                "this style prior belongs to another generator",
                got=f"generator {generator_sha256[:12]}",
                expected=f"generator {about['generator_sha256'][:12]} ({folder})",
                remedy="train the prior again for this generator: styleavatar3d train stylespace",
            )
        if encoders and about["encoders"]:
            _check_encoders(encoders, about["encoders"], str(folder))
        statistics = Statistics(about["w_dim"], about["clip_dim"], about["text_dim"])
        more = {name: about[name] for name in ("generator_sha256", "knows_attributes", "strangers", "encoders")}
        prior = cls(about["denoiser"], statistics, about["slots"], **more)
        load_weights(prior, storage)
        return prior.eval().requires_grad_(False)


def _steps(wanted: Conditions, guidance: Guidance) -> list[tuple[Conditions, float]]:
    """The conditions in the order in which they become known, and the scale of each step."""
    if not isinstance(guidance, Mapping):
        return [(wanted, float(guidance))]
    given = [name for i, name in enumerate(CONDITIONS) if wanted.present[:, i].any()]
    return [(wanted.only(*given[: i + 1]), float(guidance.get(name, 1.0))) for i, name in enumerate(given)]


def _check_encoders(ours: Mapping[str, str], theirs: Mapping[str, Model], folder: str) -> None:
    for role, model in theirs.items():
        if ours.get(role) != model.sha256:
            raise StyleAvatarError(
                f"this style prior was trained with another encoder of {role}s",
                got=f"encoder {ours.get(role, 'none')[:12]}",
                expected=f"{model.id}@{model.revision}, encoder {model.sha256[:12]} ({folder})",
                remedy="give it that encoder, or train the prior again with this one: styleavatar3d train stylespace",
            )


def _check(guidance: Guidance, steps: int, strength: float) -> None:
    scales = guidance if isinstance(guidance, Mapping) else {"all": guidance}
    if unknown := [name for name in scales if name not in (*CONDITIONS, "all")]:
        raise StyleAvatarError("there is no such condition to guide by", got=unknown[0], expected=", ".join(CONDITIONS))
    if not (all(0 <= scale <= 100 for scale in scales.values()) and 1 <= steps <= 1000 and 0 < strength <= 1):
        raise StyleAvatarError(
            "guidance, steps or strength out of range",
            got=f"guidance {guidance}, steps {steps}, strength {strength}",
            expected="guidance in [0, 100], steps in [1, 1000], strength in (0, 1]",
        )


def _read_config(storage: Storage) -> dict[str, Any]:
    try:
        about = read_json(storage, "config.json")
        if about["words"] != words.NUMBERS:
            raise ValueError(f"{about['words']} words, where figures.looks has {words.NUMBERS}")
        sizes = {name: int(about[name]) for name in ("w_dim", "clip_dim", "slots")}
        encoders = {role: Model(**model) for role, model in about.get("encoders", {}).items()}
        strangers = about["strangers"]
        return {
            **sizes,
            "text_dim": int(about.get("text_dim", sizes["clip_dim"])),
            "encoders": encoders or None,
            "denoiser": DenoiserConfig(**about["denoiser"]),
            "generator_sha256": str(about["generator_sha256"]),
            "knows_attributes": bool(about["knows_attributes"]),
            "strangers": None if strangers is None else float(strangers),
        }
    except (StyleAvatarError, ValueError, KeyError, TypeError) as error:
        raise StyleAvatarError(
            "this folder holds no style prior",
            got=f"{storage.url} ({error})",
            expected="config.json and model.safetensors of `styleavatar3d train stylespace`",
            remedy="styleavatar3d train stylespace --config stylespace/miniature",
        ) from None
