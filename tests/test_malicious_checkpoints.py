"""Pickles that attack their reader, in every file type that bears a pickle: nothing runs, nothing is written, one line
says why.
"""

import argparse
import codecs
import contextlib
import io
import itertools
import marshal
import pickle
import re
import struct
import warnings
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import call, listing, refused

import fgmae_bench
from fgmae_bench.checkpoints import inert, torch_files
from fgmae_bench.checkpoints.inert import VALUES, Foreign, InertUnpickler, Namespace, stand_in
from fgmae_bench.checkpoints.reader import read_state
from fgmae_bench.checkpoints.scan import MAX_DEPTH, Refused, scan
from fgmae_bench.checkpoints.torch_files import LEGACY_MAGIC, PLAIN, STORAGES, WITH_STORAGES
from fgmae_bench.errors import BenchError

# --- pieces of pickles


def text(value):
    raw = str(value).encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def binary(value):
    return b"B" + struct.pack("<I", len(value)) + value


def number(value):
    raw = pickle.encode_long(value)
    return b"\x8a" + bytes([len(raw)]) + raw


def named(module, name):
    """GLOBAL, as protocol 2 writes it."""
    return f"c{module}\n{name}\n".encode()


def stacked(module, name):
    """STACK_GLOBAL: dotted names are walked attribute by attribute."""
    return text(module) + text(name) + b"\x93"


def several(*parts):
    return b"(" + b"".join(parts) + b"t"


def listed(*parts):
    return b"](" + b"".join(parts) + b"e"


def mapping(*pairs):
    return b"}(" + b"".join(pairs) + b"u"


def called(function, *parts):
    return function + several(*parts) + b"R"


def built(thing, state):
    return thing + state + b"b"


NONE, FALSE, TRUE, ZERO, ONE = b"N", b"\x89", b"\x88", b"K\x00", b"K\x01"
GETATTR, SYSTEM = named("builtins", "getattr"), named("os", "system")
EMPTY_ARRAY = called(
    named("numpy.core.multiarray", "_reconstruct"), named("numpy", "ndarray"), several(ZERO), text("b")
)
FLOATS = built(
    called(named("numpy", "dtype"), text("f4"), FALSE, TRUE),
    several(b"K\x03", text("<"), NONE, NONE, NONE, number(-1), number(-1), ZERO),
)


def shell(path):
    return text(f"touch {path}")


def python(path):
    return text(f"open({str(path)!r}, 'w').close()")


def imported(name):
    return called(named("importlib", "import_module"), text(name))


def storage_bytes(content, count=2):
    """What `torch.storage._load_from_bytes` takes: torch's older format with `content` as its main pickle."""
    head = b"".join(
        pickle.dumps(part, protocol=2)
        for part in (1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}})
    )
    return (
        LEGACY_MAGIC
        + head
        + b"\x80\x02"
        + content
        + b"."
        + pickle.dumps(["0"], protocol=2)
        + struct.pack("<q", count)
        + bytes(4 * count)
    )


def stored(count):
    """A storage of `count` floats by persistent id."""
    return several(text("storage"), named("torch", "FloatStorage"), text("0"), text("cpu"), number(count), NONE) + b"Q"


def tensor_of(storage, size, stride):
    return called(
        named("torch._utils", "_rebuild_tensor_v2"), storage, ZERO, several(*size), several(*stride), FALSE, NONE
    )


# --- attacks that run under an ordinary unpickler: name -> pickle body that makes the file at `path`


RUNNING = {
    "os.system": lambda path: called(SYSTEM, shell(path)),
    "posix.system": lambda path: called(named("posix", "system"), shell(path)),
    "stacked": lambda path: called(stacked("os", "system"), shell(path)),
    "stacked from the memo": lambda path: text("os") + b"q\x00" + text("system") + b"q\x01" + called(b"h\x00h\x01\x93", shell(path)) + b"\x87",
    "subprocess": lambda path: called(named("subprocess", "check_call"), listed(text("touch"), text(path))),
    "eval": lambda path: called(named("builtins", "eval"), python(path)),
    "exec": lambda path: called(named("builtins", "exec"), python(path)),
    "names of Python 2": lambda path: called(named("__builtin__", "eval"), python(path)),
    "open": lambda path: called(named("builtins", "open"), text(path), text("w")),
    "method of a class": lambda path: called(stacked("pathlib", "Path.touch"), called(named("pathlib", "PosixPath"), text(path))),
    "nested reductions": lambda path: called(called(GETATTR, called(named("builtins", "__import__"), text("os")), text("system")), shell(path)),
    "chain of getattr": lambda path: called(called(GETATTR, called(GETATTR, imported("shutil"), text("os")), text("system")), shell(path)),
    "argparse": lambda path: called(stacked("argparse", "_os.system"), shell(path)),
    "collections": lambda path: called(called(GETATTR, called(stacked("collections", "_sys.modules.get"), text("os")), text("system")), shell(path)),
    "torch.serialization": lambda path: called(stacked("torch.serialization", "os.system"), shell(path)),
    "torch.utils": lambda path: called(named("torch.utils.collect_env", "run"), shell(path)),
    "numpy.testing": lambda path: called(named("numpy.testing._private.utils", "runstring"), python(path), mapping()),
    "partial": lambda path: called(called(named("functools", "partial"), SYSTEM, shell(path))),
    "partial by its state": lambda path: called(
        built(called(named("functools", "partial"), named("os", "getpid")), several(SYSTEM, several(shell(path)), mapping(), NONE))
    ),
    "attrgetter": lambda path: called(called(called(named("operator", "attrgetter"), text("system")), imported("os")), shell(path)),
    "methodcaller": lambda path: called(called(named("operator", "methodcaller"), text("system"), shell(path)), imported("os")),
    "code object": lambda path: called(
        called(named("types", "FunctionType"), called(named("marshal", "loads"), binary(marshal.dumps(compile(f"open({str(path)!r}, 'w')", "", "exec")))), mapping())
    ),
    "map": lambda path: called(named("builtins", "list"), called(named("builtins", "map"), SYSTEM, listed(shell(path)))),
    "timeit": lambda path: called(named("timeit", "timeit"), python(path), text("pass"), named("time", "perf_counter"), ONE),
    "profile": lambda path: called(named("cProfile", "run"), python(path), text(f"{path}.profile")),
    "codecs": lambda path: called(named("builtins", "exec"), called(named("codecs", "decode"), text(codecs.encode(f"open({str(path)!r}, 'w')", "rot13")), text("rot13"))),
    "torch's bytes": lambda path: called(named("torch.storage", "_load_from_bytes"), binary(storage_bytes(called(SYSTEM, shell(path))))),
    "a pickle in the bytes": lambda path: called(named("torch.storage", "_load_from_bytes"), binary(b"\x80\x02" + called(SYSTEM, shell(path)) + b".")),
    "type of a tensor": lambda path: called(named("torch._tensor", "_rebuild_from_type_v2"), SYSTEM, named("builtins", "int"), several(shell(path)), mapping()),
    "INST": lambda path: b"(" + shell(path) + b"ios\nsystem\n",
    "OBJ": lambda path: b"(" + SYSTEM + shell(path) + b"o",
    "NEWOBJ_EX": lambda path: named("subprocess", "Popen") + several(listed(text("touch"), text(path))) + b"}\x92" + b"0" + called(SYSTEM, shell(path)),
    "array of objects": lambda path: built(
        EMPTY_ARRAY, several(ONE, several(ONE), called(named("numpy", "dtype"), text("O"), FALSE, TRUE), FALSE, listed(called(SYSTEM, shell(path))))
    ),
    "inside a namespace": lambda path: built(named("argparse", "Namespace") + b")\x81", mapping(text("lr"), called(SYSTEM, shell(path)))),
    "key of a mapping": lambda path: mapping(called(SYSTEM, shell(path)), text("value")),
    "items of an OrderedDict": lambda path: called(named("collections", "OrderedDict"), listed(listed(text("a"), called(SYSTEM, shell(path))))),
}  # fmt: skip

# --- attacks on memory, stack, time and on the reader's own objects

DEEP = 200_000
HUGE = 2**40
QUIET = {
    "bytes without end": b"\x8e" + struct.pack("<Q", HUGE),
    "bytearray without end": b"\x96" + struct.pack("<Q", HUGE),
    "text without end": b"\x8d" + struct.pack("<Q", HUGE),
    "bytearray of a size": called(named("builtins", "bytearray"), number(HUGE)),
    "memo table": NONE + b"r" + struct.pack("<I", 2**31),
    "array without bytes": built(EMPTY_ARRAY, several(ONE, several(number(HUGE)), FLOATS, FALSE, binary(b""))),
    "array of negative size": built(EMPTY_ARRAY, several(ONE, several(number(-1), number(-1)), FLOATS, FALSE, binary(b"abcd"))),
    "array of two sizes": called(named("numpy.core.multiarray", "_reconstruct"), named("numpy", "ndarray"), several(number(HUGE)), text("f8")),
    "empty array": EMPTY_ARRAY,
    "dtype with fields": built(called(named("numpy", "dtype"), text("f4")), several(b"K\x03", text("<"), NONE, several(text("a")), mapping(), ONE, ONE, ZERO)),
    "storage without end": tensor_of(stored(HUGE), [number(HUGE)], [ONE]),
    "tensor beyond its storage": tensor_of(stored(2), [number(2**20)], [ONE]),
    "tensor repeated": tensor_of(stored(2), [number(HUGE)], [ZERO]),
    "tensor in bytes, beyond": tensor_of(called(named("torch.storage", "_load_from_bytes"), binary(storage_bytes(stored(2)))), [number(2**20)], [ONE]),
    "storage in bytes, without end": called(named("torch.storage", "_load_from_bytes"), binary(storage_bytes(stored(HUGE)))),
    "deep key": mapping(b")" + b"\x85" * DEEP, NONE),
    "deep list": b"]" * 5000 + b"a" * 4999,
    "deep marks": b"(" * 5000 + b"t" * 5000,
    "key of doubled tuples": mapping(b")" + b"".join(b"q" + bytes([k]) + b"h" + bytes([k]) + b"\x86" for k in range(60)), NONE),
    "mapping of itself": b"}q\x00(" + text("model") + b"h\x00u",
    "set": called(named("builtins", "set"), listed(ONE)),
    "frozen set": b"(" + ONE + b"\x91",
    "extension registry": b"\x82\x01",
    "persistent id": b"Pos.system\n",
    "persistent id from the stack": text("os.system") + b"Q",
    "buffer from outside": b"\x97",
    "class of a namespace": built(named("argparse", "Namespace") + b")\x81", several(NONE, mapping(text("__class__"), named("collections", "OrderedDict")))),
    "state of a class": built(named("argparse", "Namespace"), several(NONE, mapping(text("__setstate__"), named("collections", "OrderedDict")))),
    "state of a function": built(named("numpy.core.multiarray", "_reconstruct"), several(NONE, mapping(text("function"), named("argparse", "Namespace")))),
    "methods of an OrderedDict": built(called(named("collections", "OrderedDict")), mapping(text("items"), ONE, text("get"), ONE)),
    "other codec": called(named("_codecs", "encode"), text("abc"), text("zlib")),
    "class of our own": called(named("fgmae_bench.checkpoints.inert", "Rebuild"), named("collections", "OrderedDict")),
    "no bytes of torch": called(named("torch.storage", "_load_from_bytes"), binary(b"\x80\x02}.")),
    "code under an allowed module": named("torch", "load"),
    "reference to nothing": b"h\x07",
    "empty stack": b"\x87",
    "unknown operation": b"\xff",
    "letters that move the cursor": named("os\x1b[2J", "system\x1b[31m"),
}  # fmt: skip

# --- files


def plain_file(path, body):
    path.write_bytes(b"\x80\x04" + body + b".")


def legacy_file(path, body):
    path.write_bytes(storage_bytes(body))


def zip_file(path, body, protocol=2):
    """A genuine file of torch.save whose data.pkl is replaced; checksums are right."""
    buffer = io.BytesIO()
    torch.save({"model": {"a": torch.zeros(2)}}, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w") as target:
        for member in source.infolist():
            content = source.read(member)
            target.writestr(
                member.filename,
                b"\x80" + bytes([protocol]) + body + b"." if member.filename.endswith("/data.pkl") else content,
            )


def newer_zip_file(path, body):
    zip_file(path, body, 4)


FILES = {
    "weights.pkl": plain_file,
    "weights.pth": zip_file,
    "newer.pth": newer_zip_file,
    "weights.pt": legacy_file,
    "weights.safetensors": plain_file,
}
PLACES = {
    "as the whole": lambda body: body,
    "as a weight": lambda body: mapping(text("model"), mapping(text("patch_embed.proj.weight"), body)),
}


def refusal(path, capfd):
    """The one line of a refused read; nothing printed, warned, written, or left in the reader's tables."""
    before, tables = listing(path.parent), snapshot()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BenchError) as caught:
            read_state(path)
    line = str(caught.value)
    assert listing(path.parent) == before
    assert snapshot() == tables
    assert capfd.readouterr() == ("", "")
    assert line.startswith(f"{path} ")
    assert line.isprintable()
    return line


def snapshot():
    """The allow-list and what its functions do; torch's own list of safe globals."""
    functions = {name: value.function for name, value in PLAIN.items() if isinstance(value, inert.Rebuild)}
    classes = {name: vars(value).copy() for name, value in PLAIN.items() if isinstance(value, type)}
    return dict(PLAIN), dict(WITH_STORAGES), functions, classes, set(torch.serialization.get_safe_globals())


@pytest.mark.parametrize("attack", RUNNING)
def test_control_the_attack_works_on_an_ordinary_unpickler(tmp_path, monkeypatch, attack):
    """By protocol 2, which translates Python 2's names, or by protocol 4, which walks dotted ones."""
    monkeypatch.setattr(torch, "load", unguarded_load)
    for protocol in (b"\x80\x02", b"\x80\x04"):
        stream = io.BytesIO(protocol + RUNNING[attack](tmp_path / "canary") + b".")
        with contextlib.suppress(
            TypeError, ValueError, AttributeError, LookupError, EOFError, ImportError, pickle.UnpicklingError
        ):
            pickle.Unpickler(stream).load()  # what fails, fails upon the harm
    assert (tmp_path / "canary").exists()


def unguarded_load(stream, **_):
    """torch.load as `_load_from_bytes` calls it, for the control: the main pickle of the bytes, unguarded."""
    content = stream.read()
    if content.startswith(LEGACY_MAGIC):
        content = content[content.index(SYSTEM) :]
        return pickle.Unpickler(io.BytesIO(b"\x80\x02" + content)).load()
    return pickle.Unpickler(io.BytesIO(content)).load()


@pytest.mark.parametrize("attack", RUNNING)
def test_nothing_runs(tmp_path, capfd, attack):
    """In each file type, as the whole content and as one weight."""
    for name, place in itertools.product(FILES, PLACES):
        FILES[name](tmp_path / name, PLACES[place](RUNNING[attack](tmp_path / "canary")))
        line = refusal(tmp_path / name, capfd)
        assert re.search(r"is not read: it (names|uses|holds)", line), (name, place)
        assert not (tmp_path / "canary").exists(), (name, place)


@pytest.mark.parametrize("attack", QUIET)
def test_nothing_is_exhausted_or_changed(tmp_path, capfd, attack):
    """In each file type, as the whole content and as one weight."""
    for name, place in itertools.product(FILES, PLACES):
        FILES[name](tmp_path / name, PLACES[place](QUIET[attack]))
        refusal(tmp_path / name, capfd)


# Attacks on what only a newer zip has: storages by persistent id that lie in the mapped file.
PID = text("storage"), named("torch", "FloatStorage"), text("0"), text("cpu"), number(2)
IN_ZIP = {
    "storage of another name": several(text("module"), *PID[1:]) + b"Q",
    "storage without a length": several(*PID[:4]) + b"Q",
    "storage of text": several(PID[0], text("float"), *PID[2:]) + b"Q",
    "storage that is not there": several(*PID[:2], text("9"), *PID[3:]) + b"Q",
    "storage by a way out": several(*PID[:2], text("../data.pkl"), *PID[3:]) + b"Q",
    "storage of fewer": several(*PID[:4], number(1)) + b"Q",
    "storage of more": several(*PID[:4], number(HUGE)) + b"Q",
    "tensor beyond": tensor_of(several(*PID) + b"Q", [number(2**20)], [ONE]),
    "tensor repeated without end": tensor_of(several(*PID) + b"Q", [number(HUGE)], [ZERO]),
    "storage of less than none": several(*PID[:4], number(-1)) + b"Q",
    "called type": called(named("torch", "FloatStorage"), number(HUGE)),
    "changed type": built(named("torch", "FloatStorage"), several(NONE, mapping(text("itemsize"), ONE))),
    "tensor set beyond its storage": built(
        tensor_of(several(*PID) + b"Q", [ONE], [ONE]),
        several(several(*PID) + b"Q", ZERO, several(number(2**20)), several(ONE)),
    ),
    "tensor behind its storage": tensor_of(several(*PID) + b"Q", [ONE], [ONE]).replace(b"K\x00", b"K\x05", 1),
}


@pytest.mark.parametrize("attack", IN_ZIP)
def test_a_newer_zip_gives_no_way_out_of_its_storages(tmp_path, capfd, attack):
    for name, place in PLACES.items():
        newer_zip_file(tmp_path / f"{name}.pth", place(IN_ZIP[attack]))
        refusal(tmp_path / f"{name}.pth", capfd)


def test_control_the_parts_of_the_attacks_on_a_newer_zip_are_a_tensor(tmp_path):
    newer_zip_file(tmp_path / "w.pth", mapping(text("a"), tensor_of(several(*PID) + b"Q", [b"K\x02"], [ONE])))
    assert torch.equal(read_state(tmp_path / "w.pth").tensors["a"], torch.zeros(2))


def test_one_line_and_exit_code_of_the_command(tmp_path):
    zip_file(tmp_path / "w.pth", RUNNING["os.system"](tmp_path / "canary"))
    line = refused("inspect", "w.pth", cwd=tmp_path, run=lambda *flags, cwd: call("weights.__main__", *flags, cwd=cwd))
    assert line == (
        "error: w.pth is not read: it names os.system; save its state dict anew where you trust it: "
        "torch.save({'model': model.state_dict()}, FILE)"
    )


# --- the parts by themselves


def test_a_namespace_only_holds_its_values():
    given = argparse.Namespace(lr=0.1)
    vars(given)["__class__"] = "x"
    read = InertUnpickler(io.BytesIO(pickle.dumps(given, protocol=4)), PLAIN).load()
    assert type(read) is Namespace
    assert read.values == {"lr": 0.1, "__class__": "x"}
    assert not hasattr(read, "lr")
    assert not hasattr(read, "__dict__")


@pytest.mark.parametrize(("depth", "ok"), [(MAX_DEPTH - 1, True), (MAX_DEPTH, False)])
def test_the_depth_that_is_read(depth, ok):
    stream = io.BytesIO(b"\x80\x02)" + b"\x85" * depth + b".")
    if ok:
        scan(stream, partial(stand_in, PLAIN), 4, 1000)
        assert stream.read() == b""
    else:
        with pytest.raises(Refused, match="nests its parts too deeply"):
            scan(stream, partial(stand_in, PLAIN), 4, 1000)


def test_the_scan_stops_behind_its_pickle():
    stream = io.BytesIO(pickle.dumps({"a": [1, 2]}, protocol=4) + b"rest")
    scan(stream, partial(stand_in, PLAIN), 4, 1000)
    assert stream.read() == b"rest"


def test_no_name_leads_to_code_of_others():
    """The tables themselves: our stand-ins, and types of numbers, which cannot be called."""
    named = {**PLAIN, **WITH_STORAGES}
    made = [value for value in named.values() if not isinstance(value, torch.dtype)]
    homes = {value.__module__ if isinstance(value, type) else type(value).__module__ for value in made}
    assert homes == {inert.__name__}
    functions = {value.function.__module__ for value in made if isinstance(value, inert.Rebuild)}
    assert functions == {inert.__name__, torch_files.__name__}
    assert not any(callable(value) for value in STORAGES.values())
    assert all(stand_in({}, module, name) is Foreign for module, names in VALUES.items() for name in names.split())


def test_the_package_never_unpickles_by_other_means():
    pattern = re.compile(
        r"pickle\.loads?\(|weights_only=False|allow_pickle=True|\b(joblib|dill|cloudpickle|marshal|shelve)\b"
    )
    for path in Path(fgmae_bench.__file__).parent.rglob("*.py"):
        assert not pattern.search(path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("kind", ["weights.pkl", "weights.pth", "weights.pt"])
def test_random_changes_are_read_or_refused(tmp_path, kind):
    """400 pickles with one to three bytes changed, checksums of the zip made right: a state or a BenchError, nothing
    else.
    """
    weights = {"cls_token": torch.zeros(2), "norm.bias": torch.ones(2)}
    arrays = {name: tensor.numpy() for name, tensor in weights.items()}
    source = {"model": weights | {"x": arrays["cls_token"]}, "args": argparse.Namespace(lr=0.1), "epoch": np.float32(2)}
    if kind == "weights.pkl":
        body = pickle.dumps(source, protocol=4)[2:-1]
    else:
        buffer = io.BytesIO()
        torch.save(source, buffer)
        with zipfile.ZipFile(buffer) as archive:
            body = archive.read("archive/data.pkl")[2:-1]
    rng = np.random.default_rng(len(kind))
    outcomes = {"read": 0, "refused": 0}
    for _ in range(400):
        changed = bytearray(body)
        for place in rng.integers(len(changed), size=rng.integers(1, 4)):
            changed[place] = rng.integers(256)
        FILES[kind](tmp_path / kind, bytes(changed))
        try:
            read_state(tmp_path / kind)
            outcomes["read"] += 1
        except BenchError:
            outcomes["refused"] += 1
    assert outcomes["refused"] > 100
