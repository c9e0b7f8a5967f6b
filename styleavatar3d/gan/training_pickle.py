"""The generator inside an original training pickle: its tensors by name, and its settings.

Such a file holds the networks G, D and G_ema, each a tree of modules. Most modules are stored with their own source
text, which is skipped; the others by class name only, which needs nothing but an inert stand-in.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection
from typing import Any, NamedTuple

from torch import Tensor

from styleavatar3d.gan.pickled_tensors import SETS, VALUES, Plain, Storages, describe, mapping
from styleavatar3d.gan.restricted_pickle import Budget, Record, read_pickle, refuse, without_collection

NETWORK = "G_ema"
_PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"
_MODULES = {
    "torch.nn.modules.activation.Softplus",
    "torch.nn.modules.container.Sequential",
    "torch.nn.modules.container.ModuleList",
    "torch.nn.Softplus",
    "torch.nn.Sequential",
}
_INERT = {"torch.Size", "torch.device", "torch.float32", "torch.float16"}
_RENDERING = re.compile(r"training(\.[a-z_0-9]+)+\.(OSGDecoder|ImportanceRenderer|RaySampler|MipRayMarcher2)")
_ATTRIBUTES = ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels", "neural_rendering_resolution")
_MAX_MODULES = 10_000
_MAX_NAME = 200


class TrainingPickle(NamedTuple):
    """`weights` are the state dict under its original names (views of the file's bytes), `settings` plain data."""

    weights: dict[str, Tensor]
    settings: dict[str, Any]


def allowed(name: str) -> bool:
    """Whether a global may stand in a training pickle. It is never imported in any case."""
    known = name in VALUES or name in _MODULES or name in _INERT or name == _PERSISTENT
    return known or _RENDERING.fullmatch(name) is not None


@without_collection()
def read_training_pickle(data: bytes, stand_ins: Collection[str] = ()) -> TrainingPickle:
    """The moving average of the generator. `stand_ins` are further globals that may be named, as inert as all others.

    Raises StyleAvatarError naming what is not allowed, missing or malformed.
    """
    stream, budget = io.BytesIO(data), Budget(len(data))
    root, records = read_pickle(stream, lambda name: allowed(name) or name in stand_ins, budget)
    if stream.tell() != len(data):
        refuse("something follows its end", got=f"{len(data) - stream.tell()} bytes")
    networks = mapping(root)
    if NETWORK not in networks:
        refuse(f"it holds no {NETWORK}", got=describe(tuple(networks)), expected="the entries G, D and G_ema")
    walk = _Walk(Storages(records, budget))
    walk.collect(networks[NETWORK], "")
    return TrainingPickle(walk.weights, _settings(_state(networks[NETWORK])))


class _Walk:
    """Gathers parameters and buffers as `state_dict` would."""

    def __init__(self, storages: Storages):
        self.storages, self.modules = storages, 0
        self.weights: dict[str, Tensor] = {}

    def collect(self, module: Any, prefix: str) -> None:
        self.modules += 1
        if self.modules > _MAX_MODULES:
            refuse("it holds too many modules", expected=f"at most {_MAX_MODULES}")
        state = _state(module)
        transient = _members(state.get("_non_persistent_buffers_set", ()))
        for kind in ("_parameters", "_buffers"):
            for name, value in mapping(state.get(kind, {})).items():
                if value is not None and name not in transient:
                    self.weights[_name(prefix, name)] = self.storages.tensor(value)
        for name, child in mapping(state.get("_modules", {})).items():
            if child is not None:
                self.collect(child, _name(prefix, name) + ".")


def _state(module: Any) -> dict[Any, Any]:
    """The attributes of a recorded module, whether it came with its source or by its class name."""
    if not isinstance(module, Record):
        refuse("it holds something else where a network is expected", got=describe(module))
    if module.name == _PERSISTENT and len(module.arguments) == 1:
        return mapping(mapping(module.arguments[0]).get("state"))
    return mapping(module.state)


def _settings(state: dict[Any, Any]) -> dict[str, Any]:
    """How the generator was made, and what it says of itself now."""
    plain = Plain()
    settings = plain(state.get("_init_kwargs", {}))
    settings |= {name: plain(state[name]) for name in _ATTRIBUTES if name in state}
    if "rendering_kwargs" in state:
        settings["rendering_kwargs"] = plain(state["rendering_kwargs"])
    return settings


def _members(value: Any) -> frozenset[str]:
    """The members of a set, which protocols 2 and 3 write as a call."""
    members = value.arguments[0] if isinstance(value, Record) and value.name in SETS and value.arguments else value
    if not isinstance(members, (set, frozenset, list, tuple)) or len(members) > _MAX_NAME:
        refuse("it holds something else where a set of names is expected", got=describe(value))
    return frozenset(name for name in members if isinstance(name, str))


def _name(prefix: str, name: Any) -> str:
    if not isinstance(name, str) or not name or len(prefix) + len(name) > _MAX_NAME:
        refuse("it holds a part with a strange name", got=describe(name))
    return prefix + name
