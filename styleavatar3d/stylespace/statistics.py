"""What makes codes and embeddings standard, and the bridge from texts to the pictures they describe."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

_SHARPNESS = 20.0
_RIDGE = 0.1


class Statistics(nn.Module):
    """What makes codes and embeddings standard, measured on the pairs of one generator.

    Codes and embeddings get mean zero and spread one. A text embedding lies beside those of the pictures it describes
    (the modality gap), and says nothing on what it leaves open; so where the two are compared it is not only centred
    but mapped, by ridge regression, to the image embedding that is to be expected. On held-out renders with captions
    that name half of the attributes this explained 0.58 of the variance of the picture's embedding, where centring
    explained 0.36.
    """

    w_mean: Tensor
    w_std: Tensor
    image_mean: Tensor
    image_spread: Tensor
    text_mean: Tensor
    text_spread: Tensor
    image_from_text: Tensor

    def __init__(self, w_dim: int, clip_dim: int, text_dim: int | None = None):
        """Lengths of a code, of a picture's embedding and, where texts have a space of their own, of a text's."""
        super().__init__()
        self.register_buffer("w_mean", torch.zeros(w_dim))
        self.register_buffer("w_std", torch.ones(w_dim))
        self.register_buffer("image_mean", torch.zeros(clip_dim))
        self.register_buffer("image_spread", torch.ones(()))
        self.register_buffer("text_mean", torch.zeros(text_dim or clip_dim))
        self.register_buffer("text_spread", torch.ones(()))
        self.register_buffer("image_from_text", torch.eye(text_dim or clip_dim, clip_dim))

    @classmethod
    def of(
        cls,
        codes: Float[Tensor, "count tokens w"],
        images: Float[Tensor, "images clip"],
        texts: Float[Tensor, "texts text"],
        paired: bool = False,
    ) -> "Statistics":
        """Measure them on codes, and on unit embeddings of their pictures and of captions: one of each picture if
        `paired`, else of anything in the pictures' own space."""
        statistics = cls(codes.shape[2], images.shape[1], texts.shape[1])
        flat = codes.flatten(0, 1)
        statistics.w_mean, statistics.w_std = flat.mean(0), flat.std(0).clamp(min=1e-4)
        statistics.image_mean, statistics.text_mean = images.mean(0), texts.mean(0)
        statistics.image_spread = (images - images.mean(0)).square().mean().sqrt().clamp(min=1e-6)
        statistics.text_spread = (texts - texts.mean(0)).square().mean().sqrt().clamp(min=1e-6)
        centred, pictures = texts - texts.mean(0), statistics.image(images)
        statistics.image_from_text = regression(centred, pictures if paired else pictures_meant(centred, pictures))
        return statistics

    def standard_code(self, codes: Float[Tensor, "batch tokens w"]) -> Float[Tensor, "batch tokens w"]:
        return (codes - self.w_mean) / self.w_std

    def code(self, standard: Float[Tensor, "batch tokens w"]) -> Float[Tensor, "batch tokens w"]:
        return standard * self.w_std + self.w_mean

    def image(self, embeddings: Float[Tensor, "*batch clip"]) -> Float[Tensor, "*batch clip"]:
        """Unit embeddings of pictures with mean zero and spread one."""
        return (embeddings - self.image_mean) / self.image_spread

    def text(self, embeddings: Float[Tensor, "*batch text"]) -> Float[Tensor, "*batch text"]:
        """Unit embeddings of texts with mean zero and spread one."""
        return (embeddings - self.text_mean) / self.text_spread

    def pictured(self, texts: Float[Tensor, "*batch text"]) -> Float[Tensor, "*batch clip"]:
        """What `image` is expected to give for pictures of what the texts describe."""
        return (texts - self.text_mean) @ self.image_from_text


def caption_likeness(
    texts: Float[Tensor, "texts clip"], images: Float[Tensor, "images clip"]
) -> Float[Tensor, "texts images"]:
    """Logits of which centred picture a centred caption describes."""
    return _SHARPNESS * F.normalize(texts, dim=1) @ F.normalize(images, dim=1).T


def pictures_meant(
    texts: Float[Tensor, "texts clip"], images: Float[Tensor, "images clip"]
) -> Float[Tensor, "texts clip"]:
    """The mean of the pictures that each text describes, where nobody knows which: it votes for those it is most like.

    On renders, where the true pairs are known, regression on this is as good (0.757 of the variance against 0.761).
    """
    return torch.cat([caption_likeness(some, images).softmax(1) @ images for some in texts.split(256)])


def regression(texts: Float[Tensor, "texts text"], meant: Float[Tensor, "texts clip"]) -> Float[Tensor, "text clip"]:
    """The matrix M with texts @ M = meant, by ridge regression."""
    gram = texts.T @ texts
    ridge = _RIDGE * gram.diagonal().mean() * torch.eye(len(gram))
    return torch.linalg.solve(gram + ridge, texts.T @ meant).contiguous()
