"""One config for the two steps of the style space: making pairs of codes and pictures, and training on them."""

from typing import Literal

from pydantic import Field, model_validator

from styleavatar3d.config import RunConfig, Strict
from styleavatar3d.runtime.attention import Attention
from styleavatar3d.runtime.fleet import FleetConfig
from styleavatar3d.runtime.tracking import TrackConfig


class FilterConfig(Strict):
    """Which codes are drawn anew, as (seed, index, attempt) say. What is at its default asks for nothing."""

    turn: float = Field(default=180.0, gt=0, le=180)
    """degrees, at most, between the view that was asked for and the one that the estimator reads in the render"""
    coverage: float = Field(default=0.0, ge=0, lt=1)
    """share of the render, at least, that the figure covers"""
    likeness: float = Field(default=1.0, gt=0, le=1)
    """cosine, at most, between a render's embedding and those before it in its chunk: beyond are duplicates"""
    attempts: int = Field(default=4, ge=1)
    """draws of a code, after which it is left out"""


class CodesConfig(Strict):
    """Where the pairs come from and how the pictures are varied."""

    generator: str = "data/miniature/generator"
    clip: str = "data/miniature/clip"
    """who reads pictures, and texts if it can: a CLIP, SigLIP or DINOv2; a folder, or owner/name@commit of the hub"""
    text_encoder: str = ""
    """who reads texts instead: a CLIP or SigLIP; DINOv2 needs one beside it"""
    offline: bool = False
    """look for hub ids in the cache of this machine only"""
    estimators: str = "data/miniature/estimators"
    """who reads the renders, so that captions and attributes are known; empty: captions are chosen by likeness"""
    codes: str
    """folder or s3:// prefix of the pairs"""
    count: int = Field(ge=2)
    held_out: int = Field(ge=1)
    """how many of them are never trained on"""
    crops: int = Field(default=3, ge=1)
    """embeddings a code: the first of the clean render, the others of augmented ones"""
    yaw: float = Field(default=20.0, ge=0, le=180)
    """the render's yaw is uniform in +- this many degrees around the front"""
    pitch: float = Field(default=10.0, ge=0, lt=90)
    texts: int = Field(default=4, ge=1)
    """captions of a code"""
    captions: int = Field(default=2048, ge=2)
    """without estimators: front-view captions of other figures to choose from"""
    truncation: float = Field(default=1.0, gt=0, le=2)
    """pulls codes towards the mean one: less varied, and fewer of them bad"""
    mixing: float = Field(default=0.0, ge=0, le=1)
    """share of codes that have the slots, from a random one on, of another (StyleGAN, section 3.1): model.space w+"""
    filter: FilterConfig | None = None
    """without it every code is kept"""
    chunk: int = Field(default=512, ge=1)
    """codes that are published, and lost by a kill, together"""
    batch: int = Field(default=16, ge=1)


class DenoiserConfig(Strict):
    """Size of the denoiser, or where to take a trained one from."""

    start: str = ""
    """folder of a prior to go on from; the sizes are then those of that prior"""
    space: Literal["w", "w+"] = "w"
    """one code for all slots, or a token for each slot"""
    layers: int = Field(default=4, ge=1)
    width: int = Field(default=256, ge=8)
    heads: int = Field(default=4, ge=1)
    """of the attention between slots; w has none"""
    attention: Attention = "auto"
    """while it learns; on a GPU xformers may save memory"""
    prediction: Literal["epsilon", "sample", "v_prediction", "edm"] = "v_prediction"


class DropConfig(Strict):
    """How often a condition is unknown while training, each by itself; and all of them, for guidance."""

    image: float = Field(default=0.5, ge=0, le=1)
    text: float = Field(default=0.4, ge=0, le=1)
    attributes: float = Field(default=0.4, ge=0, le=1)
    all: float = Field(default=0.1, ge=0, le=1)


class TrainConfig(Strict):
    """Schedules are in thousands of pairs seen."""

    kpairs: float = Field(gt=0)
    batch: int = Field(default=256, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    warmup_kpairs: float = Field(default=20.0, ge=0)
    ema_kpairs: float = Field(default=50.0, gt=0)
    """half-life of the averaged weights, which are the ones saved"""
    clip: float = Field(default=1.0, gt=0)
    """largest norm of a step's gradient"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """of the denoiser's arithmetic while it learns; weights and averages are kept in fp32"""
    compile: bool = False
    """by torch.compile: slower to begin, faster to go on; not with ZeRO-3"""
    drop: DropConfig = DropConfig()
    noise: float = Field(default=0.3, ge=0)
    """standard deviation of the noise on embeddings, whose components have spread one"""


class StyleTrackConfig(TrackConfig):
    checkpoint_kpairs: float = Field(default=200.0, gt=0)
    retrieval: int = Field(default=100, ge=0)
    """held-out pictures among which each must find itself again at the end; 0 skips the rendering"""


class StyleSpaceConfig(Strict):
    run: RunConfig
    data: CodesConfig
    model: DenoiserConfig = DenoiserConfig()
    train: TrainConfig
    fleet: FleetConfig = FleetConfig(kind="inline")
    """who makes the pairs; training is started by `accelerate`"""
    track: StyleTrackConfig = StyleTrackConfig()

    @model_validator(mode="after")
    def _mixed_codes_have_slots(self) -> "StyleSpaceConfig":
        if self.data.mixing and self.model.space == "w":
            raise ValueError("data.mixing makes codes whose slots differ, which only model.space w+ can learn")
        return self
