"""Checkpoints that do not fit, are damaged or are none at all: refused whole, in one line that names the file and the
cause.
"""

import argparse
import io
import pickle
import struct
import tarfile
import warnings
import zipfile

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from tiny_checkpoints import ENCODER, arrays, failure, legacy, pickled, tiny_vit

from fgmae_bench.checkpoints import synth as synth_layouts
from fgmae_bench.checkpoints.load import account, load_backbone
from fgmae_bench.checkpoints.reader import read_state
from fgmae_bench.errors import BenchError

pytest_plugins = ("tiny_checkpoints",)


# --- checkpoints that do not fit


MISFITS = {
    "width": ({"embed_dim": 48}, "is 32 wide, the model 48"),
    "patch": ({"patch_size": 8}, "has patches of 4 pixels, the model 8"),
    "channels": ({"in_chans": 3}, "takes 2 channels, the model 3"),
    "depth": ({"depth": 3}, "has 2 blocks, the model 3"),
    "MLP": ({"mlp_ratio": 2.0}, "blocks.0.mlp.fc1.weight is (128, 32), the model wants (64, 32)"),
}


@pytest.mark.parametrize("part", MISFITS)
def test_another_geometry_is_named(tmp_path, weights, part):
    changed, cause = MISFITS[part]
    torch.save({"model": weights}, tmp_path / "w.pth")
    assert cause in failure(tmp_path / "w.pth", tiny_vit(**changed))


def test_a_published_width_is_named_by_its_model(tmp_path):
    base = torch.zeros(768, 2, 16, 16)
    torch.save({"patch_embed.proj.weight": base}, tmp_path / "w.pth")
    vit = VisionTransformer(img_size=32, patch_size=16, in_chans=2, embed_dim=384, depth=1, num_heads=6, num_classes=0)
    assert "is 768 wide (vit_base_patch16), the model 384 (vit_small_patch16); give the checkpoint" in failure(
        tmp_path / "w.pth", vit
    )


EDITS = {
    "unknown": (
        lambda w: w | {f"odd.{k}": torch.zeros(1) for k in range(7)},
        "has 7 keys that the model does not know: odd.0, odd.1, odd.2, odd.3, odd.4, and 2 more",
    ),
    "last block": (
        lambda w: {k: v for k, v in w.items() if not k.startswith("blocks.1.")},
        "has 1 blocks, the model 2",
    ),
    "first block": (
        lambda w: {k: v for k, v in w.items() if not k.startswith("blocks.0.")},
        "lacks 12 keys of the model: blocks.0.norm1.weight",
    ),
    "one key": (lambda w: {k: v for k, v in w.items() if k != "cls_token"}, "lacks 1 keys of the model: cls_token"),
    "NaN": (lambda w: w | {"norm.bias": torch.full((32,), torch.nan)}, "norm.bias holds NaN or infinity"),
    "infinity": (
        lambda w: w | {"blocks.0.attn.proj.bias": torch.full((32,), -torch.inf)},
        "blocks.0.attn.proj.bias holds NaN or infinity",
    ),
    "overflow": (
        lambda w: w | {"norm.bias": torch.full((32,), 1e300, dtype=torch.float64)},
        "norm.bias holds NaN or infinity",
    ),
    "integers": (lambda w: w | {"norm.bias": torch.ones(32, dtype=torch.long)}, "norm.bias holds int64"),
    "empty": (lambda w: w | {"norm.bias": torch.zeros(0)}, "norm.bias is (0,), the model wants (32,)"),
    "no tensors": (lambda w: {"lr": 0.1, "names": list(w)}, "holds no tensors"),
    "a list": (list, "it holds list of 53 where a mapping"),
    "tuples as keys": (lambda w: {(1, 2): torch.zeros(1)}, "keys that are not text"),
    "a name twice": (
        lambda w: w | {"blocks": {"0": {"norm1": {"bias": torch.zeros(32)}}}},
        "it holds blocks.0.norm1.bias twice",
    ),
    "sparse": (lambda w: w | {"norm.bias": torch.ones(32).to_sparse()}, "it names torch."),
    "quantised": (
        lambda w: w | {"norm.bias": torch.quantize_per_tensor(torch.ones(32), 0.1, 0, torch.qint8)},
        "it names torch.",
    ),
    "repeated": (
        lambda w: w | {"norm.bias": torch.zeros(1).expand(10**9)},
        "norm.bias (1000000000,) claims more values than the file holds",
    ),
    "escape codes": (lambda w: w | {"\x1b[31m\nred": torch.zeros(1)}, "?[31m?red"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, while it writes
@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_checkpoint_is_refused_by_cause(tmp_path, weights, edit):
    change, cause = EDITS[edit]
    torch.save(change(dict(weights)), tmp_path / "w.pth")
    assert cause in failure(tmp_path / "w.pth")


def test_numpy_arrays_of_other_things_are_refused(tmp_path):
    for name, array in {
        "objects": np.array([{}]),
        "text": np.array(["a"]),
        "times": np.array(["2020"], "M8[D]"),
        "records": np.zeros(1, "i4,f4"),
    }.items():
        pickled(tmp_path / name, {"model": {"norm.bias": array}})
        torch.save({"model": {"norm.bias": array}}, tmp_path / f"{name}.pth")
        for path in (tmp_path / name, tmp_path / f"{name}.pth"):
            assert "it holds numpy arrays of something other than numbers" in failure(path)


# --- files that are not checkpoints, or damaged


def zip_file(path, members, **options):
    with zipfile.ZipFile(path, "w", **options) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name twice
        for name, content in members:
            archive.writestr(name, content)


def tar_file(path):
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"), io.BytesIO(b""))


FOREIGN = {
    "not there": (lambda path: None, "is not there"),
    "folder": (lambda path: path.mkdir(), "is not a file"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "page": (
        lambda path: path.write_text("<!DOCTYPE html>\n<html>Not found"),
        "is a text file that begins '<!DOCTYPE html>?<html>Not found'",
    ),
    "long text": (lambda path: path.write_text("ä" * 4000), "is a text file"),
    "text protocol": (lambda path: path.write_bytes(pickle.dumps({"a": 1}, protocol=0)), "is a text file"),
    "zeros": (lambda path: path.write_bytes(bytes(4096)), "is not a checkpoint"),
    "noise": (lambda path: path.write_bytes(b"\x93NUMPY" + bytes(range(256))), "is not a checkpoint"),
    "tar": (tar_file, "is a tar archive"),
    "zip": (lambda path: zip_file(path, [("a.txt", b"a")]), "it is a zip archive, not a checkpoint"),
    "TorchScript": (
        lambda path: zip_file(path, [("m/data.pkl", b"\x80\x02}."), ("m/constants.pkl", b"")]),
        "it is a TorchScript program",
    ),
    "two names": (
        lambda path: zip_file(path, [("m/data.pkl", b"\x80\x02}."), ("M/DATA.PKL", b"")]),
        "it is a zip archive that holds a name twice",
    ),
    "bomb": (
        lambda path: zip_file(path, [("m/data.pkl", bytes(10**6))], compression=zipfile.ZIP_DEFLATED),
        "it is a compressed zip archive",
    ),
    "trailing bytes": (lambda path: path.write_bytes(pickle.dumps({"a": 1}) * 2), "bytes follow after its end"),
    "long header": (
        lambda path: path.write_bytes(struct.pack("<Q", 60) + b"{" * 100),
        "cannot be read as a checkpoint",
    ),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_files(tmp_path, kind):
    write, cause = FOREIGN[kind]
    write(tmp_path / "w.pth")
    assert cause in failure(tmp_path / "w.pth")


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_the_older_format_in_a_newer_protocol_says_how_to_save_it(tmp_path, weights, protocol):
    torch.save(weights, tmp_path / "w.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=False)
    line = failure(tmp_path / "w.pth")
    assert (
        f"torch's older format in pickle protocol {protocol}, which is read in protocol 2 alone; save it again" in line
    )
    assert line.endswith("torch.save(state_dict, FILE)")


def test_a_zip_of_another_byte_order_is_refused(tmp_path, monkeypatch):
    torch.save({"a": torch.ones(2)}, tmp_path / "w.pth", pickle_protocol=4)
    monkeypatch.setattr("sys.byteorder", "big")
    with pytest.raises(BenchError, match="holds numbers in another byte order"):
        read_state(tmp_path / "w.pth")


DAMAGEABLE = {
    "zip": lambda path, w: torch.save({"model": w, "args": argparse.Namespace(lr=1)}, path),
    "zip, protocol 4": lambda path, w: torch.save(
        {"model": w, "args": argparse.Namespace(lr=1)}, path, pickle_protocol=4
    ),
    "legacy": lambda path, w: legacy(path, {"model": w}),
    "pkl of arrays": lambda path, w: pickled(path, {"model": arrays(w)}),
    "pkl of tensors": lambda path, w: pickled(path, {"model": w}),
    "safetensors": lambda path, w: synth_layouts.LAYOUTS["safetensors"](path, w, False),
}


@pytest.mark.parametrize("kind", DAMAGEABLE)
def test_a_file_cut_at_a_hundred_random_places_is_refused(tmp_path, weights, kind):
    small = {name: tensor for name, tensor in weights.items() if tensor.numel() < 2000}
    whole, part = tmp_path / "whole", tmp_path / "part"
    DAMAGEABLE[kind](whole, small)
    assert len(read_state(whole).tensors) == len(small)
    content = whole.read_bytes()
    places = {1, 7, 8, 9, len(content) - 1, *np.random.default_rng(0).integers(1, len(content), 95).tolist()}
    for place in sorted(places):
        part.write_bytes(content[:place])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(
                BenchError, match=r"cannot be read as a checkpoint|is not a checkpoint|text file|not read"
            ):
                read_state(part)


def test_a_flipped_bit_in_a_zip_is_caught_by_its_checksums(tmp_path, weights):
    path = tmp_path / "w.pth"
    torch.save({"model": weights}, path)
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        spans = [
            (info.header_offset, info.file_size, archive.read(info)) for info in archive.infolist() if info.file_size
        ]
    rng = np.random.default_rng(1)
    for offset, size, member in [spans[k] for k in rng.integers(len(spans), size=40)]:
        place = content.index(member, offset) + int(rng.integers(size))
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        failure(path)
    damaged = bytearray(content)
    damaged[content.index(weights["norm.bias"].numpy().tobytes()) + 1] ^= 1
    path.write_bytes(damaged)
    assert "is damaged: the checksum of its part w/data/" in failure(path)


@pytest.mark.parametrize("kind", ["safetensors", "legacy", "pkl of arrays"])
def test_a_flipped_bit_elsewhere_shows_in_the_sha256_alone(tmp_path, weights, kind):
    """These formats carry no checksum: the load succeeds with another weight. Only a known hash can tell."""
    path = tmp_path / "w"
    DAMAGEABLE[kind](path, weights)
    good = read_state(path)
    content = bytearray(path.read_bytes())
    content[bytes(content).index(weights["norm.bias"].numpy().tobytes()) + 1] ^= 1
    path.write_bytes(content)
    report = load_backbone(tiny_vit(), path)
    assert report.used == ENCODER
    assert report.sha256 != good.sha256


# --- what is not read


@pytest.mark.parametrize("kind", ["zip", "zip, protocol 4", "safetensors"])
def test_what_is_not_used_takes_no_memory(tmp_path, weights, kind):
    """128 MB of decoder stay in the file, also while the state is held: the process's own memory does not grow by them."""
    big = torch.zeros(32 * 2**20)
    if kind.startswith("zip"):
        content = {"model": weights | {"decoder_more": big}, "optimizer": {"state": {0: {"exp_avg": big}}}}
        torch.save(content, tmp_path / "w", pickle_protocol=4 if "4" in kind else 2)
    else:
        synth_layouts.LAYOUTS[kind](tmp_path / "w", weights | {"decoder_more": big}, False)
    del big
    vit = tiny_vit()
    before = anonymous_bytes()
    state = read_state(tmp_path / "w")
    account(vit, state)
    assert anonymous_bytes() - before < 32 * 2**20


def anonymous_bytes():
    """Memory of this process that no file backs."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))
    except FileNotFoundError:
        pytest.skip("memory is measured on Linux only")
