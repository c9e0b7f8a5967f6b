"""Pickles that try to run something, to lie or to exhaust the reader. Every one is a pure function of (seed, index).

Most are a true training pickle with a poisoned value where the augmentation pipe, a setting or a storage belongs; the
rest are poisoned as a whole. What they would run touches the canary file.
"""

import pickle
import pickletools
import random
import struct
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from gan.original_pickles import training_pickle

MARKER = "here the poison goes"
SETTINGS = {
    "z_dim": 4, "c_dim": 25, "w_dim": 4, "img_resolution": 8, "img_channels": 3, "rendering_kwargs": {"box_warp": 1.0}
}  # fmt: skip


@cache
def healthy() -> bytes:
    """A small, true training pickle without frames (which would have to be re-measured) and with the marker in it."""
    weights = {"backbone.b4.const": torch.ones(4, 4), "decoder.net.0.weight": torch.ones(2, 3)}
    data = training_pickle(weights, SETTINGS | {"note": "a note"}, extra=MARKER)
    frames = [position for opcode, _, position in pickletools.genops(data) if opcode.name == "FRAME"]
    for position in reversed(frames):
        data = data[:position] + data[position + 9 :]
    return data


def inside(poison: bytes, marker: str = MARKER) -> bytes:
    """The healthy pickle with opcodes that push one value instead of the marker (or another text that it holds)."""
    return healthy().replace(text(marker), poison, 1)


def alone(poison: bytes, protocol: int = 4) -> bytes:
    return b"\x80" + bytes([protocol]) + poison + b"."


# --- opcodes ---


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"\x8c" + bytes([len(data)]) + data if len(data) < 256 else b"X" + struct.pack("<I", len(data)) + data


def blob(value: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(value)) + value


def values(arguments: Any) -> bytes:
    """Opcodes that push plain data, without memo and frames."""
    data = pickletools.optimize(pickle.dumps(arguments, protocol=3))
    return data[2:-1]


def old_global(module: str, name: str) -> bytes:
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def new_global(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def storage_call(content: bytes) -> bytes:
    return new_global("torch.storage", "_load_from_bytes") + blob(content) + b"\x85R"


def tensor_call(storage: bytes, rest: tuple[Any, ...]) -> bytes:
    """`_rebuild_tensor_v2(storage, *rest)` with `rest` plain."""
    return new_global("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + b"".join(map(values, rest)) + b"tR"


def storage_bytes(identifier: bytes | None = None, count: int = 4, numbers: bytes = bytes(16)) -> bytes:
    """A storage in torch's legacy form; `identifier` are the opcodes of its persistent id."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    honest = b"(" + text("storage") + old_global("torch", "FloatStorage") + text("0") + text("cpu") + b"K\x04Nt"
    parts = [pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001, system)]
    reference = b"\x80\x02" + (honest if identifier is None else identifier) + b"Q."
    keys = pickle.dumps(["0"], protocol=2)
    return b"".join([*parts, reference, keys, struct.pack("<q", count), numbers])


# --- what would run ---


def calls(canary: str) -> list[tuple[str, str, tuple[Any, ...]]]:
    """(module, name, arguments) of calls that touch the canary if they are ever made."""
    code = f"open({canary!r}, 'w')"
    return [
        ("os", "system", (f"touch {canary}",)),
        ("posix", "system", (f"touch {canary}",)),
        ("os", "mkdir", (canary,)),
        ("subprocess", "check_output", (["touch", canary],)),
        ("subprocess", "Popen", (["touch", canary],)),
        ("builtins", "eval", (code,)),
        ("builtins", "exec", (code,)),
        ("__builtin__", "eval", (code,)),
        ("builtins", "open", (canary, "w")),
        ("io", "open", (canary, "w")),
        ("_io", "FileIO", (canary, "w")),
        ("builtins", "getattr", ("text", "upper")),
        ("builtins", "__import__", ("antigravity",)),
        ("importlib", "import_module", ("this",)),
        ("code", "interact", ()),
        ("runpy", "run_path", (canary,)),
        ("pickle", "loads", (b"cos\nsystem\n.",)),
        ("torch", "load", (canary,)),
        ("torch.hub", "load", (canary, "x")),
        ("torch._utils", "_rebuild_tensor_v2.__globals__", ()),
        ("torch.storage", "_load_from_bytes.__globals__", ()),
        ("numpy", "load", (canary,)),
        ("functools", "partial", (1,)),
        ("operator", "attrgetter", ("x",)),
        ("copyreg", "_reconstructor", (1, 2, 3)),
        ("torch_utils.persistence", "_reconstruct_persistent_obj.__globals__", ()),
        ("dnnlib.util", "call_func_by_name", ("os.system",)),
        ("training.triplane", "TriPlaneGenerator.__init__", ()),
        ("training.os", "system", (f"touch {canary}",)),
        ("training", "OSGDecoder", ()),
    ]


Kind = Callable[[random.Random, str], bytes]


def _call(rng: random.Random, canary: str) -> tuple[bytes, bytes, tuple[str, str, bytes]]:
    module, name, arguments = rng.choice(calls(canary))
    return old_global(module, name), new_global(module, name), (module, name, values(arguments))


def by_reduce(rng: random.Random, canary: str) -> bytes:
    old, new, (_, _, arguments) = _call(rng, canary)
    poison = rng.choice((old, new)) + arguments + b"R"
    return rng.choice((inside(poison), inside(poison, "a note"), alone(poison), alone(poison, 2)))


def by_newobj(rng: random.Random, canary: str) -> bytes:
    _, new, (_, _, arguments) = _call(rng, canary)
    return inside(new + arguments + rng.choice((b"\x81", b"}\x92")))


def by_inst(rng: random.Random, canary: str) -> bytes:
    _, _, (module, name, arguments) = _call(rng, canary)
    instance = b"(" + arguments + b"i" + module.encode() + b"\n" + name.encode() + b"\n"
    return rng.choice((inside(instance), instance + b".", alone(instance)))


def by_obj(rng: random.Random, canary: str) -> bytes:
    old, _, (_, _, arguments) = _call(rng, canary)
    return inside(b"(" + old + arguments + b"o")


def by_extension(rng: random.Random, _: str) -> bytes:
    code = rng.choice((b"\x82\x01", b"\x83\x01\x01", b"\x84\x01\x01\x01\x01", b"\x82\x00"))
    return inside(code + rng.choice((b"", b")R")))


def by_persistent_id(rng: random.Random, canary: str) -> bytes:
    return inside(rng.choice((b"P" + canary.encode() + b"\n", text("storage") + b"Q", b"(" + text("storage") + b"tQ")))


def by_build(rng: random.Random, canary: str) -> bytes:
    state = values({"__setstate__": canary, "__class__": "os"})
    easy = new_global("dnnlib.util", "EasyDict") + b")\x81"
    poison = rng.choice((b"}" + state + b"b", b"]" + state + b"b", text("x") + state + b"b", easy + state * 2 + b"bb"))
    return inside(poison) if rng.random() < 0.5 else inside(easy + state + b"b" + state + b"b")


def by_odd_name(rng: random.Random, canary: str) -> bytes:
    odd = [
        b"K\x01" + text("system"), text("os") + b"K\x01", text("os") + b"N", b"NN", b"]]", text("os") + b"C\x06system",
        text("\u043es") + text("system"), text("os ") + text("system"), text("os\n") + text("system"),
        text("") + text("os.system"), text("os.system") + text(""), text("os") + text("system\0"),
        text("torch._utils") + text("_rebuild_tensor_v2 "), text("torch._utils\0") + text("_rebuild_tensor_v2"),
        text("TORCH._UTILS") + text("_rebuild_tensor_v2"), text("\ud800") + text("\udfff"),
        text("\x1b[2J" * 9) + text("system"), text("a" * 100_000) + text("b"), text("..") + text(".."),
        text("training.x\nos") + text("OSGDecoder"), text("training..") + text("OSGDecoder"),
    ]  # fmt: skip
    return inside(rng.choice(odd) + b"\x93" + values((f"touch {canary}",)) + b"R")


def by_allowed_callee(rng: random.Random, canary: str) -> bytes:
    """Callees that may be named, called with what they must not be called with, or called upon themselves."""
    hooked = new_global("os", "system") + values((f"touch {canary}",)) + b"R"
    poison = [
        tensor_call(b"N", (0, (2,), (1,), False, {})),
        tensor_call(hooked, (0, (2,), (1,), False, {})),
        new_global("collections", "OrderedDict") + b"(" + hooked + b"tR",
        new_global("collections", "OrderedDict") + b"N" + b"R",
        new_global("collections", "OrderedDict") + b")R)R",
        b"})R",
        text("os.system") + values((f"touch {canary}",)) + b"R",
        storage_call(b""),
        storage_call(b"")[:-1] + b"\x81",
        new_global("torch.storage", "_load_from_bytes") + values(("text",)) + b"R",
    ]
    return inside(rng.choice(poison))


def nested_pickle(rng: random.Random, canary: str) -> bytes:
    """A hostile pickle where the bytes of a storage belong, or inside an otherwise true storage."""
    old, _, (_, _, arguments) = _call(rng, canary)
    poison = old + arguments + b"R"
    content = rng.choice(
        (alone(poison, 2), pickle.dumps(0x1950A86A20F9469CFC6C, 2) + alone(poison, 2), storage_bytes(poison),
         storage_bytes(b"(" + text("storage") + poison + text("0") + text("cpu") + b"K\x04Nt"),
         storage_bytes(b"(" + text("storage") + old + text("0") + text("cpu") + b"K\x04Nt"))
    )  # fmt: skip
    return inside(tensor_call(storage_call(content), (0, (4,), (1,), False, {})))


def nested_lie(rng: random.Random, _: str) -> bytes:
    honest = b"(" + text("storage") + old_global("torch", "FloatStorage") + text("0") + text("cpu")
    content = rng.choice(
        (storage_bytes(count=5), storage_bytes(count=1 << 60), storage_bytes(count=-4), storage_bytes(numbers=b""),
         storage_bytes(numbers=bytes(17)), storage_bytes(honest + b"\x8a\x08" + b"\xff" * 7 + b"\x7fNt"),
         storage_bytes(honest + b"K\x04" + b"]t"), storage_bytes(b"N"), storage_bytes(values(("module", "x"))),
         storage_bytes(values(("storage", "torch.FloatStorage", "0", "cpu", 4, None))),
         b"PK\x03\x04" + bytes(100), bytes(100), storage_bytes()[:-30], storage_bytes()[: rng.randrange(100)])
    )  # fmt: skip
    return inside(tensor_call(storage_call(content), (0, (4,), (1,), False, {})))


def long_prefix(rng: random.Random, _: str) -> bytes:
    huge = struct.pack("<Q", (1 << 62) - 1)
    poison = [
        b"\x8e" + huge, b"\x8d" + huge, b"\x96" + huge, b"B\xff\xff\xff\xff", b"X\xff\xff\xff\xff",
        b"\x8e" + b"\xff" * 8, b"T\xff\xff\xff\x7f", b"\x8b" + struct.pack("<i", 1 << 20) + b"\x7f" * (1 << 20),
        b"\x8a\xff" + b"\x7f" * 255, b"\x8b\xff\xff\xff\x7f", b"\x8b\xff\xff\xff\xff", b"r\xff\xff\xff\xff",
        b"j\xff\xff\xff\xff", b"L" + b"9" * 100_000 + b"L\n", b"I" + b"9" * 100_000 + b"\n",
    ]  # fmt: skip
    return rng.choice((inside, alone))(rng.choice(poison))


def memo_bomb(rng: random.Random, _: str) -> bytes:
    """A list of lists of lists, each the same one many times over: ten to the power of forty values in a few bytes."""
    levels, width = rng.choice(((40, 10), (60, 3), (25, 30), (90, 2)))
    tuples, base, inner = rng.random() < 0.5, _memo_before("a note"), b")"
    for level in range(levels):
        copies = b"(" + (b"j" + struct.pack("<I", base + level)) * (width - 1)
        inner += b"\x94" + (copies + b"t" if tuples else b"]" + copies + b"e")
    return inside(inner, "a note")


def _memo_before(marker: str) -> int:
    """How many values the healthy pickle has remembered where a text stands."""
    count = 0
    for opcode, argument, _ in pickletools.genops(healthy()):
        if argument == marker:
            return count
        count += opcode.name == "MEMOIZE"
    raise ValueError(marker)


def key_bomb(rng: random.Random, _: str) -> bytes:
    """Keys that take for ever to hash, or all collide."""
    tower = b")" + b"\x85" * rng.choice((1, 30, 90))
    collide = (
        b"}(" + b"".join(b"\x8a\x0a" + ((k << 61) - k).to_bytes(10, "little") + b"N" for k in range(1, 3000)) + b"u"
    )
    return inside(rng.choice((b"}" + tower + b"Ns", b"\x8f(" + tower + b"\x90", collide, b"}G" + bytes(8) + b"Ns")))


def deep(rng: random.Random, _: str) -> bytes:
    depth = rng.choice((101, 1000, 50_000))
    decoder = new_global("training.triplane", "OSGDecoder") + b")\x81"
    poison = [
        b"]" * depth + b"a" * (depth - 1), b")" + b"\x85" * depth, b"(" * depth + b"t" * depth,
        (b"}" + text("k")) * depth + b"N" + b"s" * depth, decoder * min(depth, 5000) + b"b" * (min(depth, 5000) - 1),
    ]  # fmt: skip
    return rng.choice((inside, alone))(rng.choice(poison))


def recursive(rng: random.Random, _: str) -> bytes:
    """Values that contain themselves."""
    base = _memo_before(MARKER)
    fetch = b"j" + struct.pack("<I", base)
    easy = new_global("dnnlib.util", "EasyDict") + b")\x81"
    poison = [
        b"]\x94" + fetch + b"a", b"}\x94" + text("me") + fetch + b"s", easy + b"\x94" + text("me") + fetch + b"s",
        easy + b"\x94" + fetch + b"b", b"]\x94(" + fetch * 3 + b"e", b"]\x94" + fetch + b"\x85a",
    ]  # fmt: skip
    return inside(rng.choice(poison))


def truncated(rng: random.Random, _: str) -> bytes:
    return healthy()[: rng.randrange(len(healthy()) - 1)]


def wrong_protocol(rng: random.Random, _: str) -> bytes:
    body = healthy()[2:]
    head = rng.choice(
        (b"", b"\x80\x00", b"\x80\x01", b"\x80\x06", b"\x80\xff", b"\x80\x04\x80\x04", b"N0\x80\x04", b"\x95" * 9)
    )
    return head + body


def doubled(rng: random.Random, _: str) -> bytes:
    data = healthy()
    poison = [
        data + data, data + b".", data + b"\x80", data[:-1] + b"2..", data[:-1] + b"N.", alone(b"NN"),
        inside(b"}" + text("a") + b"Ns" + text("a") + b"Ns"), inside(b"Nq\x00"), inside(b"Nr\xff\xff\x00\x00"),
        inside(b"2"), inside(b"N0"), inside(b"(1"), inside(b"(NN1N"),
    ]  # fmt: skip
    return rng.choice(poison)


def flood(rng: random.Random, _: str) -> bytes:
    piled = rng.choice((b"]", b"N", b"K\x01", b"(", b"}\x94", b")\x85")) * 2_000_000
    endless = [b"N" + b"\x85" * 2_000_000, b"]" + b"Na" * 1_000_000, b"]" + b"]a" * 1_000_000, b"}" + b"(u" * 1_000_000]
    within_the_budget = b"]" + b"]a" * 149_000
    return alone(rng.choice((piled, *endless, within_the_budget)))


def text_opcodes(rng: random.Random, canary: str) -> bytes:
    code = f"open({canary!r}, 'w')".encode()
    poison = (b"S'" + code.replace(b"'", b'"') + b"'\n", b"V" + code + b"\n", b"I" + code + b"\n", b"F1e999\n",
              b"Fnan\n", b"U\x04eval", b"I01\n", b"g0\n", b"(lp0\n", b"(dp0\n")  # fmt: skip
    return inside(rng.choice(poison))


def tensor_lie(rng: random.Random, _: str) -> bytes:
    """Shapes that reach outside of their storage, or would fill the memory. They stand for a weight of G_ema."""
    big = 1 << 40
    shapes = [
        (0, (5,), (1,)), (1, (4,), (1,)), (-1, (2,), (1,)), (0, (2,), (-1,)), (0, (-2,), (1,)), (0, (big, big), (0, 0)),
        (0, (big,), (0,)), (big, (1,), (1,)), (0, (2,), ()), (0, (2, 2), (4, 1)), (0, (1,) * 9, (1,) * 9),
        (0, [4], [1]), (0, (2.0,), (1,)), (True, (2,), (1,)), (0, "4", "1"), (0, (None,), (1,)),
    ]  # fmt: skip
    offset, size, stride = rng.choice(shapes)
    poison = tensor_call(storage_call(storage_bytes()), (offset, size, stride, False, {}))
    module = new_global("training.triplane", "OSGDecoder") + b")\x81" + b"}(" + text("_parameters") + b"}"
    module += text("w") + poison + b"s" + b"ub"
    return alone(b"}" + text("G_ema") + module + b"s")


def buffers(rng: random.Random, _: str) -> bytes:
    return inside(rng.choice((b"\x97", b"\x97\x98", b"N\x98", b"\x96" + struct.pack("<Q", 4) + b"abcd\x98")))


def underflow(rng: random.Random, _: str) -> bytes:
    opcodes = (
        b"R",
        b"\x81",
        b"b",
        b"t",
        b"\x87",
        b"s",
        b"u",
        b"e",
        b"a",
        b"\x93",
        b"\x94",
        b"h\x00",
        b"h\xff",
        b"\x90",
    )
    return alone(rng.choice(opcodes)) if rng.random() < 0.6 else alone(b"")


def nothing_of_the_kind(rng: random.Random, _: str) -> bytes:
    easy = new_global("dnnlib.util", "EasyDict")
    garbage = rng.randbytes(rng.randrange(1, 300))
    decoder = new_global("training.triplane", "OSGDecoder") + b")\x81"
    poison = [
        b"", garbage, b"\x80\x04" + garbage, alone(b"N"), alone(b"K\x01"), alone(values({"D": 1})),
        alone(values({"G_ema": None})), alone(values({"G_ema": {"a": 1}})), alone(values(["G_ema"])),
        alone(b"}" + text("G_ema") + easy + b"s"), alone(b"}" + text("G_ema") + easy + b")\x81s"),
        alone(b"}" + text("G_ema") + decoder + b"s"), alone(b"}" + text("G_ema") + decoder + b"]bs"),
        alone(b"}" + text("G_ema") + decoder + values({"_modules": {"a": 1}}) + b"bs"),
        alone(b"}" + text("G_ema") + decoder + values({"_parameters": {"a": 1}}) + b"bs"),
        alone(b"}" + text("G_ema") + decoder + values({"_parameters": [1]}) + b"bs"),
    ]  # fmt: skip
    return rng.choice(poison)


def numpy_lie(rng: random.Random, canary: str) -> bytes:
    """numpy values of kinds that hold objects, or of other lengths than they say. They stand among the settings."""
    scalar, dtype = new_global("numpy.core.multiarray", "scalar"), new_global("numpy", "dtype")
    kinds = ("O8", "O", "V8", "U4", "S4", "f8,O", "f16", "", "M8[ns]", "|O8")
    odd = dtype + values((rng.choice(kinds), False, True)) + b"R"
    true = dtype + values(("f8", False, True)) + b"R" + values((3, "<", None, None, None, -1, -1, 0)) + b"b"
    poison = [
        scalar + odd + blob(bytes(8)) + b"\x86R", scalar + true + blob(bytes(7)) + b"\x86R",
        scalar + true + new_global("os", "system") + b"\x86R", scalar + true + b"N\x86R", scalar + b")R",
        scalar + true + text(canary) + b"\x86R", new_global("numpy", "ndarray") + b")\x81",
    ]  # fmt: skip
    return inside(rng.choice(poison), "a note")


KINDS: tuple[Kind, ...] = (
    by_reduce, by_newobj, by_inst, by_obj, by_extension, by_persistent_id, by_build, by_odd_name, by_allowed_callee,
    nested_pickle, nested_lie, long_prefix, memo_bomb, key_bomb, deep, recursive, truncated, wrong_protocol, doubled,
    flood, text_opcodes, tensor_lie, buffers, underflow, nothing_of_the_kind, numpy_lie, by_reduce, nested_pickle,
)  # fmt: skip


def hostile(seed: int, index: int, canary: str) -> bytes:
    """Hostile pickle number `index`, of kind `index` modulo the number of kinds."""
    return KINDS[index % len(KINDS)](random.Random(f"{seed}-{index}"), canary)
