"""The configuration of a GAN run, and which settings fit together."""

from pydantic import Field, model_validator

from styleavatar3d.config import RunConfig, Strict
from styleavatar3d.gan.discriminator import DiscriminatorConfig
from styleavatar3d.gan.generator import GeneratorConfig
from styleavatar3d.gan.labels import LabelConfig
from styleavatar3d.gan.perception import PerceptionConfig
from styleavatar3d.gan.reconstruction import EncoderConfig
from styleavatar3d.gan.schedule import Schedule
from styleavatar3d.gan.transport import TransportConfig
from styleavatar3d.gan.views import DataConfig
from styleavatar3d.runtime.tracking import TrackConfig


class GanModel(Strict):
    """The two networks and the label that joins them; the encoder of a warm start, and what looks at pictures beside
    the discriminator; `start` is a folder of generator weights to begin from."""

    generator: GeneratorConfig = GeneratorConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    label: LabelConfig = LabelConfig()
    encoder: EncoderConfig | None = None
    transport: TransportConfig = TransportConfig()
    perception: PerceptionConfig | None = None
    start: str = ""

    @model_validator(mode="after")
    def _consistent(self):
        generator, discriminator = self.generator, self.discriminator
        if discriminator.resolution != generator.image_resolution:
            raise ValueError(f"discriminator.resolution must be the generator's, {generator.image_resolution}")
        if discriminator.label_size != self.label.size:
            raise ValueError(f"discriminator.label_size must be the label's, {self.label.size}")
        if discriminator.raw != bool(generator.super_resolution_width):
            raise ValueError("discriminator.raw must be true with super-resolution, and only then")
        if discriminator.raw and discriminator.depth:
            raise ValueError("discriminator.depth works without super-resolution only: set it to false")
        return self


class GanTrain(Strict):
    """Optimisation. Rates and the penalty interval are those of StyleGAN2 unless the schedule changes them."""

    schedule: Schedule
    batch: int = Field(default=8, gt=0)
    threads: int = 0
    generator_rate: float = 0.0025
    discriminator_rate: float = 0.0015
    penalty_interval: int = Field(default=16, gt=0)
    anchor_interval: int = Field(default=0, ge=0)
    """every how many steps after `warm_kimg` the generator reconstructs too, which keeps its heads round; 0: never"""
    anchor_rate: float = Field(default=1.0, gt=0)
    """the learning rate of those steps, as a multiple of `encoder.rate`"""
    mask_uncertainty: float = 0.0
    average_half_life_kimg: float = 5.0
    reuse_fakes: bool = True
    checkpoint_kimg: float = Field(default=4.0, gt=0)
    snapshot_kimg: float = Field(default=20.0, gt=0)


class GanConfig(Strict):
    """One run of `styleavatar3d train gan`."""

    run: RunConfig
    data: DataConfig
    model: GanModel = GanModel()
    train: GanTrain
    track: TrackConfig = TrackConfig()

    @property
    def looks_at_depth(self) -> bool:
        """Whether the data has to bring depth guidance."""
        return self.model.discriminator.depth or bool(self.model.encoder and self.model.encoder.depth)

    @model_validator(mode="after")
    def _consistent(self):
        start, entry = self.train.schedule.start_resolution, self.model.discriminator.entry_resolution
        final = self.model.generator.image_resolution
        if not entry <= start <= final:
            raise ValueError(f"start_resolution {start} is not between entry_resolution {entry} and {final}")
        if bool(self.train.schedule.warm_kimg) != bool(self.model.encoder):
            raise ValueError("train.schedule.warm_kimg needs model.encoder, and model.encoder is for warm_kimg only")
        if self.train.anchor_interval and not self.model.encoder:
            raise ValueError("train.anchor_interval needs model.encoder")
        if self.model.encoder and self.model.generator.super_resolution_width:
            raise ValueError("model.encoder works without super-resolution only: leave it out, and warm_kimg at 0")
        if self.model.encoder and self.model.encoder.resolution > final:
            raise ValueError(f"model.encoder.resolution must be that of the pictures, {final}, or below")
        if self.model.generator.super_resolution_width and start != final:
            raise ValueError("with super-resolution the resolution cannot grow: start_resolution must be the final one")
        return self
