"""Memory of a model that is not here: its parts are built and run on the meta device, and what lives is counted."""

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from styleavatar3d.synthesis.families import FAMILIES, PARTS, Family, build


def count_parameters(name: str) -> dict[str, int]:
    """Parameters of each part of a family, counted on the meta device."""
    with torch.device("meta"):
        parts = build(FAMILIES[name])
    return {part: sum(each.numel() for each in parts[part].parameters()) for part in PARTS if part in parts}


def footprint(
    name: str,
    batch: int,
    controlnets: int = 1,
    dtype: torch.dtype = torch.float16,
    slicing: bool = True,
    size: int = 0,
) -> dict[str, int]:
    """Bytes on a device that draws `batch` pictures of `size` px (the family's own) with classifier-free guidance.

    "weights" of all parts; "denoising" and "decoding": the most that lives beside them in a step and in the decoder;
    "total" is weights and the larger of the two. The allocator's own slack and the CUDA context (about 0.5 GiB) come
    on top. Attention is counted as PyTorch's fused kernel does it, without its matrix.
    """
    family = FAMILIES[name]._replace(size=size or FAMILIES[name].size)
    with torch.device("meta"):
        parts = build(family)
    networks = {part: nn.Module.to(parts[part], dtype).requires_grad_(False) for part in PARTS if part in parts}
    sizes = {part: sum(each.numel() for each in network.parameters()) for part, network in networks.items()}
    weights = dtype.itemsize * (sum(sizes.values()) + (controlnets - 1) * sizes["controlnet"])
    step = _peak(lambda: _step(networks, family, batch, controlnets, dtype))
    decode = _peak(lambda: _decode(networks["vae"], family, 1 if slicing else batch, dtype))
    return {"weights": weights, "denoising": step, "decoding": decode, "total": weights + max(step, decode)}


def _step(networks: dict[str, Any], family: Family, batch: int, controlnets: int, dtype: torch.dtype) -> None:
    rows, side = 2 * batch, family.size // 8
    latents = _empty(rows, 4, side, side, dtype=dtype)
    words = _empty(rows, 77, family.unet["cross_attention_dim"], dtype=dtype)
    pictures = _empty(rows, 3, family.size, family.size, dtype=dtype)
    added: dict[str, Tensor] = {}
    if len(family.towers) == 2:
        added = {"text_embeds": _empty(rows, 1280, dtype=dtype), "time_ids": _empty(rows, 6, dtype=dtype)}
    time = torch.zeros((), device="meta")
    down, middle = [], None
    for _ in range(controlnets):
        more, middle = networks["controlnet"](
            latents, time, words, pictures, added_cond_kwargs=added, return_dict=False
        )
        down = [one + other for one, other in zip(down, more, strict=True)] if down else more
    networks["unet"](
        latents, time, words, added_cond_kwargs=added, down_block_additional_residuals=down,
        mid_block_additional_residual=middle, return_dict=False,
    )  # fmt: skip


def _decode(vae: Any, family: Family, batch: int, dtype: torch.dtype) -> None:
    side = family.size // 8
    vae.decode(_empty(batch, 4, side, side, dtype=dtype), return_dict=False)


def _empty(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def _peak(work: Any) -> int:
    with torch.no_grad(), _Living() as living, _Fused():
        work()
    return living.peak


class _Fused(TorchFunctionMode):
    """Attention without its matrix of scores."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is F.scaled_dot_product_attention:
            query, value = args[0], args[2]
            return query.new_empty(*query.shape[:-1], value.shape[-1])
        return function(*args, **(kwargs or {}))


class _Living(TorchDispatchMode):
    """Counts the bytes of all storages made inside and still alive, and the most there were."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                self._known.add(leaf.untyped_storage())  # it was there before: a view of it is nothing new
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and (storage := leaf.untyped_storage()) not in self._known:
                self._known.add(storage)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._forget, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out

    def _forget(self, size: int) -> None:
        self.now -= size
