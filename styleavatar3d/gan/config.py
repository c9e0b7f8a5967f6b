"""The configuration of a GAN run, and which settings fit together."""

from pydantic import Field, model_validator

from styleavatar3d.config import RunConfig, Strict
from styleavatar3d.gan.augment import AugmentConfig
from styleavatar3d.gan.camera_correction import CorrectionConfig
from styleavatar3d.gan.discriminator import DiscriminatorConfig
from styleavatar3d.gan.generator import GeneratorConfig
from styleavatar3d.gan.labels import LabelConfig
from styleavatar3d.gan.losses import PenaltyShares
from styleavatar3d.gan.perception import PerceptionConfig
from styleavatar3d.gan.precision import PrecisionConfig
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
    correction: CorrectionConfig = CorrectionConfig()
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
    penalty_shares: PenaltyShares | None = None
    """strengths of the gradient penalty on image, raw picture, mask and depth; left out: on all that is seen, alike"""
    augment: AugmentConfig = AugmentConfig()
    mask_uncertainty: float = 0.0
    density_variation: float = Field(default=0.0, ge=0)
    """weight of differences between the densities, over density_gain, of neighbouring points (EG3D's 0.25)"""
    density_interval: int = Field(default=4, gt=0)
    """every how many steps, with so many times the weight"""
    density_points: int = Field(default=1000, gt=0)
    correction_drift: float = Field(default=10.0, ge=0)
    """what keeps learned camera corrections at none in the mean (PanoHead's 10)"""
    pose_weight: float = Field(default=10.0, ge=0)
    """of the discriminator's guess of poses, where it guesses them"""
    micro_batch: int = Field(default=0, ge=0)
    """images that a process looks at in one go; gradients add up to those of the batch. 0: all at once"""
    precision: PrecisionConfig = PrecisionConfig()
    checkpointing: bool = False
    """recompute activations of blocks and, where no kernel renders, of rays in the backward pass instead of keeping
    them: less memory, about a third more time"""
    compile: bool = False
    """compile the generator's blocks, on a GPU; never the discriminator, whose gradient penalty needs second
    derivatives, which compiled code has not"""
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
        if problem := conflict(self):
            raise ValueError(problem)
        return self


def conflict(config: GanConfig) -> str | None:
    """The first pair of settings that do not go together, both named, with the way out."""
    model, train, fades = config.model, config.train, config.train.schedule.fades
    generator, judge, group = model.generator, model.discriminator, model.discriminator.group
    larger = bool(generator.super_resolution_width)
    conflicts = {
        "train.schedule.fades.swap needs a generator that is told cameras: set model.generator.camera_width": (
            (fades.swap.start or fades.swap.end) and not generator.camera_width
        ),
        "model.encoder trains a generator that is told no camera: set model.generator.camera_width to 0": (
            model.encoder and generator.camera_width
        ),
        "train.schedule.fades.neural_resolution needs model.generator.super_resolution_width": (
            fades.neural_resolution and not larger
        ),
        "train.schedule.fades.pose_prior needs model.discriminator.pose": (
            (fades.pose_prior.start or fades.pose_prior.end) and not judge.pose
        ),
        "model.discriminator.pose and train.augment.mirror: a mirrored figure has another pose, set one to false": (
            judge.pose and train.augment.active and train.augment.mirror
        ),
        "model.discriminator.depth and train.augment: augmented depths fit no camera, set one to false": (
            judge.depth and train.augment.active
        ),
        "model.label.wrong_camera takes a neighbour's camera: set model.discriminator.group to 2 or more": (
            model.label.wrong_camera and group == 1
        ),
        f"train.micro_batch must be a multiple of model.discriminator.group, {group}": train.micro_batch % group,
        "train.micro_batch works without model.encoder, whose depth loss is a mean over a whole batch's pixels": (
            train.micro_batch and model.encoder
        ),
        "train.compile and train.checkpointing: a compiler decides itself what to keep, set one to false": (
            train.compile and train.checkpointing
        ),
        "train.penalty_shares.raw needs model.discriminator.raw: set it to 0": (
            train.penalty_shares and train.penalty_shares.raw and not judge.raw
        ),
        "train.penalty_shares.depth needs model.discriminator.depth: set it to 0": (
            train.penalty_shares and train.penalty_shares.depth and not judge.depth
        ),
        "train.penalty_shares.mask needs model.discriminator.mask: set it to 0": (
            train.penalty_shares and train.penalty_shares.mask and not judge.mask
        ),
    }
    return next((problem for problem, found in conflicts.items() if found), None)
