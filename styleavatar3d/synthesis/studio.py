"""The loaded diffusion models of a worker: the run's own, and those made for a style when a prompt wants one."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from styleavatar3d.shards.schema import Model
from styleavatar3d.synthesis.adapters import LoraConfig
from styleavatar3d.synthesis.loading import PipelineConfig, describe_models
from styleavatar3d.synthesis.pipeline import Synthesizer
from styleavatar3d.synthesis.sources import Source
from styleavatar3d.synthesis.vocabulary import StyleModel

Thing = TypeVar("Thing")


class Studio:
    """Holds the run's model always and one of a style at a time, so batches of one style's model should be together."""

    def __init__(self, config: PipelineConfig):
        self.config = config
        self.own = Synthesizer.load(config), describe_models(config)
        self._other: tuple[StyleModel, tuple[Synthesizer, list[Model]]] | None = None

    def model_for(self, style: StyleModel | None) -> tuple[Synthesizer, list[Model]]:
        """What draws pictures of this style's model, and what their records say of it.

        Raises StyleAvatarError for a model that cannot be had, or does not fit the run's ControlNets.
        """
        if style is None:
            return self.own
        if self._other is None or self._other[0] != style:
            self._other = None  # before the next is loaded: there may be no room for three
            config = with_style(self.config, style)
            self._other = style, (Synthesizer.load(config), describe_models(config))
        return self._other[1]


def with_style(config: PipelineConfig, style: StyleModel) -> PipelineConfig:
    """The run's pipeline, changed as a style's model wants."""
    source = style.id if Source(style.id).local() else f"{style.id}@{style.revision}"
    match style.kind:
        case "checkpoint":
            return config.model_copy(update={"folder": style.id, "revision": style.revision})
        case "lora":
            return config.model_copy(update={"loras": {**config.loras, "style": LoraConfig(source=source)}})
        case "embedding":
            return config.model_copy(update={"embeddings": {**config.embeddings, style.trigger: source}})


def grouped(things: Sequence[Thing], by: Callable[[Thing], object], most: int) -> list[list[Thing]]:
    """Batches of up to `most` in which all agree in `by`, in the order of first appearance."""
    groups: dict[str, list[Thing]] = {}
    for thing in things:
        groups.setdefault(repr(by(thing)), []).append(thing)
    return [group[start : start + most] for group in groups.values() for start in range(0, len(group), most)]
