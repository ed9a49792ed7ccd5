"""Small files that ask for much memory or disk: refused in one line, within the larger of 64 MiB and 16 times the file."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
from functools import partial

import numpy as np
import pytest
import torch
from commands import REPOSITORY
from test_malicious_checkpoints import (
    FLOATS,
    NONE,
    ONE,
    ZERO,
    binary,
    built,
    called,
    legacy_file,
    mapping,
    named,
    newer_zip_file,
    number,
    plain_file,
    several,
    tensor_of,
    text,
    zip_file,
)

from fgmae_bench.checkpoints import scan as module
from fgmae_bench.checkpoints.convert import convert
from fgmae_bench.checkpoints.inert import InertUnpickler, stand_in
from fgmae_bench.checkpoints.reader import read_state
from fgmae_bench.checkpoints.scan import Refused, room_for, scan
from fgmae_bench.checkpoints.torch_files import PLAIN
from fgmae_bench.config.cards import find_card
from fgmae_bench.errors import BenchError

FUZZ = REPOSITORY / "experiments" / "robustness" / "fuzz_checkpoints.py"
SIZE = 2_800_000
MEMO = b"r" + struct.pack("<I", 0)
GET = b"j" + struct.pack("<I", 0)
RECONSTRUCT = called(
    named("numpy.core.multiarray", "_reconstruct"), named("numpy", "ndarray"), several(ZERO), text("b")
)
SWAPPED = FLOATS.replace(text("<"), text(">"))


def many(part, count=1500):
    """A state dict with `count` entries of the same pickle."""
    return mapping(text("model"), mapping(*(text(f"w{k}") + part for k in range(count))))


def arrays_over_one_bytes_object():
    array = built(RECONSTRUCT, several(ONE, several(number(SIZE // 4)), SWAPPED, b"\x89", GET))
    return mapping(text("a"), binary(bytes(SIZE)) + MEMO, text("model"), many(array))


def one_text_encoded_again_and_again():
    coded = called(named("_codecs", "encode"), GET, text("latin1"))
    return mapping(text("a"), text("x" * SIZE) + MEMO, text("model"), many(coded))


def one_storage_of_bytes_read_again_and_again():
    content = pickle.dumps(torch.zeros(SIZE // 4))
    start = content.index(b"\x80\x02\x8a\x0a")
    raw = content[start : content.rindex(b"\x00" * 8) + 8]
    again = called(named("torch.storage", "_load_from_bytes"), GET)
    return mapping(text("a"), binary(raw) + MEMO, text("model"), many(again))


def one_name_before_a_thousand():
    return mapping(text("model"), mapping(text("n" * SIZE), mapping(*(text(str(k)) + NONE for k in range(5000)))))


PICKLES = {
    "arrays over one bytes object": arrays_over_one_bytes_object,
    "one text encoded again and again": one_text_encoded_again_and_again,
    "one storage read again and again": one_storage_of_bytes_read_again_and_again,
    "empty lists": lambda: b"(" + b"]" * (2 * SIZE) + b"t",
    "empty mappings by key": lambda: mapping(*(number(k) + b"}" for k in range(600_000))),
    "tensors of one storage": lambda: many(tensor_of(GET, [ONE], [ONE]), 400_000),
    "memo": lambda: b"(" + b"N\x94" * SIZE + b"t",
    "a name before a thousand": one_name_before_a_thousand,
}
WRITERS = {"pkl": plain_file, "pth": newer_zip_file, "pt": legacy_file}
ONE_PASS = ("empty lists", "empty mappings by key", "tensors of one storage", "memo")  # the scan is the same for all


def many_safetensors(path):
    header = {
        f"blocks.{k}.norm1.weight": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for k in range(700_000)
    }
    content = json.dumps(header, separators=(",", ":")).encode()
    path.write_bytes(len(content).to_bytes(8, "little") + content)


def many_members(path):
    """A zip whose table of contents lists one empty member 400,000 times, each by another name."""
    entries = []
    for k in range(400_000):
        name = f"{k:x}".encode()
        fields = (b"PK\x01\x02", 20, 20, 0, 0, 0, 33, 0, 0, 0, len(name), 0, 0, 0, 0, 0, 0)
        entries.append(struct.pack("<4s6H3I5H2I", *fields) + name)
    table = b"".join(entries)
    front = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 0, 0, 33, 0, 0, 0, 1, 0) + b"0"
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 65535, 65535, len(table), len(front), 0)
    path.write_bytes(front + table + end)


def views_of_one_storage(path):
    whole = torch.zeros(SIZE // 8)
    torch.save({"model": {f"blocks.{k}.norm1.weight": whole[: SIZE // 8 - k] for k in range(1000)}}, path)


FILES = {
    "many safetensors": many_safetensors,
    "many members": many_members,
    "views of one storage": views_of_one_storage,
}

# In a process of its own: each command line in a forked child, and the most memory that the child took.
MEASURED = """
import json, re, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import fuzz_checkpoints
from fuzzing import command, trial

def status(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

def measured(work):
    def inside():
        before = status("VmRSS")
        try:
            work()
        finally:
            print("peak", status("VmHWM") - before)
    return inside

fuzz_checkpoints.prepare()
folder = Path(sys.argv[2])
for words in json.loads(sys.argv[3]):
    done = trial(measured(command("fgmae_bench.weights", *words)), folder, seconds=60, room=8 << 30)
    print(json.dumps([words, done.code, done.output]))
"""


def measure(folder, *command_lines):
    """(words, exit code, what was printed, bytes of memory) of each command line."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    words = [sys.executable, "-W", "ignore", "-c", MEASURED, str(FUZZ.parent), str(folder), json.dumps(command_lines)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        words, code, output = json.loads(line)
        lines = output.splitlines()
        peak = next(line for line in lines if line.startswith("peak "))
        yield words, code, [line for line in lines if line != peak], int(peak.split()[1])


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_what_is_held_is_in_proportion_to_the_file(tmp_path):
    for name, make in PICKLES.items():
        for ending, write in WRITERS.items() if name not in ONE_PASS else [("pkl", plain_file)]:
            write(tmp_path / f"{name}.{ending}", make())
    for name, write in FILES.items():
        write(tmp_path / name)
    lines = [["inspect", path.name] for path in sorted(tmp_path.iterdir())]
    lines.append(["convert", "views of one storage", "out.safetensors"])
    for words, code, said, peak in measure(tmp_path, *lines):
        assert code == 2, (words, said)
        assert len(said) == 1, (words, said)
        assert said[0].startswith("error: "), (words, said)
        assert peak < room_for((tmp_path / words[1]).stat().st_size), (words, peak)
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.slow
def test_control_the_budget_leaves_room_for_genuine_content(tmp_path):
    """A history of 10,000 numpy scalars, 2,000 arrays, 5,000 texts, an optimizer: far below the limit."""
    content = {
        "model": {f"blocks.{k}.weight": np.ones(3, ">f4") for k in range(2000)},
        "history": [np.float64(k) for k in range(10_000)],
        "names": {str(k): f"class {k}" for k in range(5000)},
        "optimizer": {"state": {k: {"step": k, "exp_avg": np.zeros(3)} for k in range(2000)}},
    }
    for protocol in (2, 5):
        (tmp_path / "w.pkl").write_bytes(pickle.dumps(content, protocol))
        assert len(read_state(tmp_path / "w.pkl").tensors) == 2000
    torch.save(content, tmp_path / "w.pth")
    assert len(read_state(tmp_path / "w.pth").tensors) == 2000


def test_two_names_for_one_tensor_are_read(tmp_path):
    """Tied weights, as torch.save writes them."""
    whole = torch.arange(6.0)
    torch.save({"model": {"norm.weight": whole, "norm.bias": whole, "cls_token": whole[2:]}}, tmp_path / "w.pth")
    tensors = read_state(tmp_path / "w.pth").tensors
    assert torch.equal(tensors["norm.bias"], whole)
    assert torch.equal(tensors["cls_token"], whole[2:])


def test_sums_are_judged_not_single_tensors(tmp_path):
    """A 40 MB storage: 16 views of it are read, 17 are more than the file could hold 16 times."""
    whole = torch.zeros(10 * 2**20)
    for count, ok in ((15, True), (17, False)):
        torch.save({f"blocks.{k}": whole[: 10 * 2**20] for k in range(count)}, tmp_path / "w.pth")
        if ok:
            assert len(read_state(tmp_path / "w.pth").tensors) == count
        else:
            with pytest.raises(BenchError, match="its tensors claim 713,031,680 bytes of values, the file has"):
                read_state(tmp_path / "w.pth")


def test_repair_may_not_write_more_than_the_source_accounts_for(tmp_path):
    """float16 doubles when it is repaired: 12 views of one storage become 24 times the file."""
    half = torch.zeros(10 * 2**20, dtype=torch.float16)
    torch.save({f"blocks.{k}": half[:] for k in range(12)}, tmp_path / "w.pth")
    state = read_state(tmp_path / "w.pth")
    with pytest.raises(BenchError, match=r"has [\d,]+ bytes and would become 503,316,480"):
        convert(state, tmp_path / "out.safetensors", None, repair=True)
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize("write", [plain_file, zip_file, newer_zip_file, legacy_file])
def test_tensors_of_many_axes_are_refused(tmp_path, write):
    """Their shapes would be printed and padded."""
    body = mapping(text("model"), mapping(text("norm.bias"), tensor_of(NONE, [ONE] * 200, [ONE] * 200)))
    write(tmp_path / "w", body)
    with pytest.raises(BenchError, match="is not read"):
        read_state(tmp_path / "w")
    torch.save({"norm.bias": torch.zeros([1] * 65), "norm.weight": torch.zeros(2)}, tmp_path / "axes.pth")
    with pytest.raises(BenchError, match="it holds a tensor of 65 axes"):
        read_state(tmp_path / "axes.pth")


@pytest.mark.slow
def test_what_a_scan_counts_is_no_less_than_what_is_made(monkeypatch):
    """Objects of each kind, 20,000 at once, against the memory that they take: the cost tables are not too low."""
    count = 20_000
    bodies = {
        "lists": b"](" + b"]" * count + b"e",
        "mappings": b"](" + b"}" * count + b"e",
        "tuples": b"](" + b"N\x85" * count + b"e",
        "floats": b"](" + (b"G" + struct.pack(">d", 1.5)) * count + b"e",
        "whole numbers": b"](" + b"J\xff\xff\xff\x7f" * count + b"e",
        "long numbers": b"](" + number(2**62) * count + b"e",
        "texts": b"](" + text("ab") * count + b"e",
        "wide texts": b"](" + text("\U0001f600" * 9) * count + b"e",
        "bytes": b"](" + binary(b"ab" * 9) * count + b"e",
        "pairs": b"}(" + b"".join(number(k) + NONE for k in range(count)) + b"u",
        "sets": b"](" + b"\x8f" * count + b"e",
        "items": b"\x8f(" + b"".join(number(k) for k in range(count)) + b"\x90",
        "objects": b"](" + called(named("stranger", "Thing")) * count + b"e",
        "ordered": b"](" + called(named("collections", "OrderedDict")) * count + b"e",
    }
    for name, body in bodies.items():
        content = b"\x80\x04" + body + b"."
        spent = []
        monkeypatch.setattr(module._Machine, "_charge", lambda self, cost, spent=spent: spent.append(cost))
        scan(io.BytesIO(content), partial(stand_in, PLAIN), 5, len(content))
        unpickler = InertUnpickler(io.BytesIO(content), PLAIN)
        tracemalloc.start()
        held = unpickler.load()
        made = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert made <= sum(spent), (name, made / count, sum(spent) / count)
        del held


def test_the_scan_stops_at_its_room():
    with pytest.raises(Refused, match="it asks for memory out of proportion to its size"):
        scan(io.BytesIO(b"\x80\x02(" + b"]" * 700_000 + b"t."), partial(stand_in, PLAIN), 2, 700_000)


@pytest.mark.parametrize("name", ["[" * 3000, "a/" * 3000, "a\0b", "a\0.toml"])
def test_a_card_whose_name_no_file_system_takes_is_refused(name):
    with pytest.raises(BenchError, match=r"unknown dataset|does not exist"):
        find_card(name)
