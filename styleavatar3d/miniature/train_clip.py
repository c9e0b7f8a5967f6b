"""Train the tiny CLIP: picture and caption of one render meet in one space (arXiv:2103.00020), guided by attributes.

A contrastive loss alone needs far more pictures than a CPU gives in minutes. So one linear head per attribute reads the
joint space from either side and must name what the picture shows: both towers then agree on the same directions.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from styleavatar3d.camera.cameras import QUARTERS, quarter_name
from styleavatar3d.encoders.tokenizer import build_tokenizer
from styleavatar3d.figures.looks import WORDS
from styleavatar3d.miniature.config import MiniatureConfig
from styleavatar3d.miniature.models import build_clip
from styleavatar3d.miniature.pictures import Pictures, coin, draw_indices
from styleavatar3d.miniature.reading import attribute_targets, masked_cross_entropy
from styleavatar3d.miniature.session import Session, trained
from styleavatar3d.runtime.distributed import World

GUIDES = {**WORDS, "view": QUARTERS}


class GuidedClip(nn.Module):
    """CLIP and the heads that guide it; only `clip` is kept."""

    clip: Any

    def __init__(self, clip: Any, width: int):
        super().__init__()
        self.clip = clip
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(words)) for name, words in GUIDES.items()})

    def named(self, embedding: Float[Tensor, "batch width"], targets: dict[str, Int[Tensor, "batch"]]) -> Tensor:
        """Mean cross entropy of the heads where the target is known."""
        losses = [masked_cross_entropy(self.heads[name](8 * embedding), targets[name]) for name in GUIDES]
        return torch.stack(losses).mean()


def train_clip(config: MiniatureConfig, pictures: Pictures, held_out: Pictures, world: World) -> dict[str, Any]:
    """Train or resume; returns images, cpu-seconds and how often a held-out caption finds its picture among 100."""
    recipe, seed = config.train.clip, config.run.seed
    torch.manual_seed(seed)
    tokenizer = tokenizer_for(config)
    network = GuidedClip(build_clip(config.model, tokenizer), config.model.embedding)
    session = Session("clip", network, recipe, config, world)
    device = world.device
    targets = attribute_targets(pictures, WORDS) | {"view": view_targets(pictures)}

    for step in session.steps():
        indices = draw_indices(len(pictures), recipe.batch, seed, "clip", step)
        mirrored = coin(recipe.batch, 0.5, seed, "clip mirror", step)
        images = pictures.batch(indices)
        images = torch.where(mirrored.to(device)[:, None, None, None], images.flip(3), images)
        known = {name: mirror_target(name, target[indices], mirrored).to(device) for name, target in targets.items()}
        tokens = tokenize(tokenizer, pictures.captions(indices, seed, step, mirrored)).to(device)
        with session.autocast:
            out = network.clip(input_ids=tokens, pixel_values=images)
        image, text = out.image_embeds.float(), out.text_embeds.float()
        contrast = contrastive_loss(image, text, network.clip.logit_scale)
        guide = network.named(image, known) + 0.5 * network.named(text, known)
        session.learn(contrast + guide, contrast=contrast, guide=guide)

    score = retrieval(session.average.clip.eval(), tokenizer, held_out.part(0, min(100, len(held_out))), seed)
    return {**session.spent(), "caption_to_picture": score}


def contrastive_loss(
    image: Float[Tensor, "batch width"], text: Float[Tensor, "batch width"], log_scale: Tensor
) -> Tensor:
    """Symmetric InfoNCE of unit embeddings."""
    logits = log_scale.clamp(max=4.0).exp() * image @ text.T
    own = torch.arange(len(image), device=image.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def view_targets(pictures: Pictures) -> Int[Tensor, "count"]:
    """Index of the four-way view."""
    return torch.tensor([QUARTERS.index(quarter_name(yaw)) for yaw in pictures.yaw.tolist()])


def mirror_target(name: str, target: Int[Tensor, "batch"], mirrored: Tensor) -> Int[Tensor, "batch"]:
    """In a mirror image left is right; nothing else changes."""
    if name != "view":
        return target
    return torch.where(mirrored, torch.tensor([0, 3, 2, 1])[target], target)


def trained_clip(config: MiniatureConfig) -> Any:
    """The finished `CLIPModel`, frozen. Raises StyleAvatarError while the stage is not done."""
    guided = GuidedClip(build_clip(config.model, tokenizer_for(config)), config.model.embedding)
    return trained("clip", guided, config).clip


def tokenizer_for(config: MiniatureConfig) -> Any:
    """The tokenizer of every word that prompts can contain."""
    from styleavatar3d.synthesis.prompts import vocabulary

    return build_tokenizer(vocabulary(), config.model.tokens)


def tokenize(tokenizer: Any, texts: list[str]) -> Int[Tensor, "batch tokens"]:
    """Token ids, padded and cut as diffusers pads and cuts them."""
    options = {"padding": "max_length", "truncation": True, "max_length": tokenizer.model_max_length}
    return tokenizer(texts, return_tensors="pt", **options).input_ids


@torch.no_grad()
def retrieval(clip: Any, tokenizer: Any, pictures: Pictures, seed: int) -> float:
    """Share of captions whose nearest picture among these is their own."""
    everyone = torch.arange(len(pictures))
    tokens = tokenize(tokenizer, pictures.captions(everyone, seed, -1)).to(clip.device)
    out = clip(input_ids=tokens, pixel_values=pictures.batch(everyone))
    return round((out.logits_per_text.argmax(1).cpu() == everyone).float().mean().item(), 3)
