"""Training pickles in the original format, made without original code.

Stand-in modules with the originals' names are put into `sys.modules` while a tree of modules, built from a state dict,
is pickled: so the globals, the persistence objects with their source text and the way tensors are stored are those
of a real file.
"""

import pickle
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SOURCE = "import os\nos.system('this text is stored with every module and must never run')\n" * 40
BY_PATH = {
    "decoder": "training.triplane.OSGDecoder",
    "renderer": "training.volumetric_rendering.renderer.ImportanceRenderer",
    "renderer.ray_marcher": "training.volumetric_rendering.ray_marcher.MipRayMarcher2",
    "ray_sampler": "training.volumetric_rendering.ray_sampler.RaySampler",
}
BUFFERS = ("resample_filter", "noise_const", "w_avg")


@contextmanager
def stand_ins() -> Iterator[dict[str, type]]:
    """The classes and functions by dotted name, importable by these names inside the block only."""
    made: dict[str, Any] = {name: type(name.rpartition(".")[2], (nn.Module,), {}) for name in BY_PATH.values()}
    made["dnnlib.util.EasyDict"] = type("EasyDict", (dict,), {})
    made["torch_utils.persistence._reconstruct_persistent_obj"] = lambda meta: None
    before = dict(sys.modules)
    for dotted, value in made.items():
        module_name, _, name = dotted.rpartition(".")
        parts = module_name.split(".")
        for end in range(1, len(parts) + 1):
            sys.modules.setdefault(".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
        value.__module__, value.__name__, value.__qualname__ = module_name, name, name
        setattr(sys.modules[module_name], name, value)
    try:
        yield made
    finally:
        for name in sys.modules.keys() - before.keys():
            del sys.modules[name]


def persistent_class(made: dict[str, Any]) -> type[nn.Module]:
    """A module that is stored with its source text."""

    class Persistent(nn.Module):
        def __reduce__(self):
            meta = {
                "type": "class",
                "version": 6,
                "module_src": SOURCE,
                "class_name": "TriPlaneGenerator",
                "state": self.__dict__,
            }
            return made["torch_utils.persistence._reconstruct_persistent_obj"], (meta,)

        def __reduce_ex__(self, protocol):
            return self.__reduce__()

    return Persistent


def build(weights: dict[str, Tensor], settings: dict[str, Any], made: dict[str, Any]) -> nn.Module:
    """A tree of modules that holds `weights` under their names, and the settings as such networks hold them."""
    persistent, easy = persistent_class(made), made["dnnlib.util.EasyDict"]
    root = persistent()
    kinds = {path: made[name] for path, name in BY_PATH.items()} | {"decoder.net": nn.Sequential}
    for path in ("renderer", "renderer.ray_marcher", "ray_sampler", *weights):
        *parents, name = path.split(".") if path in weights else [*path.split("."), ""]
        module = root
        for depth, part in enumerate(parents):
            if part not in module._modules:
                module.add_module(part, kinds.get(".".join(parents[: depth + 1]), persistent)())
            module = module._modules[part]
            if isinstance(module, nn.Sequential) and not module:
                module.extend([persistent(), nn.Softplus(), persistent()])
        if name in BUFFERS:
            module.register_buffer(name, weights[path].clone())
        elif name:
            module.register_parameter(name, nn.Parameter(weights[path].clone()))
        module.weight_gain = np.float64(0.25) * np.sqrt(2.0)
    settings = dict(settings)
    root.neural_rendering_resolution = settings.pop("neural_rendering_resolution", 64)
    root._init_args, root._init_kwargs = (), easy(settings | {"sr_kwargs": easy(settings.get("sr_kwargs", {}))})
    for name in ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels", "rendering_kwargs"):
        setattr(root, name, settings[name])
    root.renderer.plane_axes = torch.eye(3).expand(3, 3, 3).clone()
    root._last_planes = None
    root.eval().requires_grad_(False)
    return root


def training_pickle(
    weights: dict[str, Tensor], settings: dict[str, Any], *, protocol: int = 4, extra: Any = None
) -> bytes:
    """The bytes of a snapshot: G, D, G_ema and the settings of the data, as a training run writes them."""
    with stand_ins() as made:
        average = build(weights, settings, made)
        easy = made["dnnlib.util.EasyDict"]
        snapshot: dict[str, Any] = {"training_set_kwargs": easy(resolution=128, max_size=np.int64(7), use_labels=True)}
        for name in ("G", "D", "G_ema"):
            snapshot[name] = average if name == "G_ema" else persistent_class(made)()
        snapshot["augment_pipe"] = extra
        return pickle.dumps(snapshot, protocol=protocol)
