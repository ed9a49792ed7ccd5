"""What changes a score changes the id of its run, and what says the same in other words does not: tried one by one."""

import importlib
import json
import sys
import zlib
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from commands import FOLDERS, call, edited_card, genuine, records, shared_world
from pack_files import changed
from safetensors.numpy import load, save
from torch import nn

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.compose import compose
from fgmae_bench.config.run import Model
from fgmae_bench.data.content import hash_of
from fgmae_bench.data.packs.format import LABELS
from fgmae_bench.data.packs.store import get, stamp_of
from fgmae_bench.models.build import wrap_module

DATA = ("--dataset", "eurosat", "--split", "random_60_20_20", "--device", "cpu")
FITTED = (*DATA, "--probe", "lbfgs", "--recipe", "corrected")
KNN = (*DATA, "--probe", "knn")
STATISTICS = ("--model", "backscatter_stats", "--weights", "random")


@pytest.fixture
def desk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def ids(*flags, data=None):
    """The runs that the results folder holds after one more command."""
    place = () if "card.toml" in str(flags) else ("--data_path", data or shared_world(5))
    done = call("linear", *flags, *place, *FOLDERS, cwd=".")
    assert done.code == 0, done.err
    return {record["run_id"] for record in records(Path("results"))}


def pack(kind):
    flags = ("eurosat", "--data_path", shared_world(5), "--out", f"{kind}.lmdb", "--dtype", kind, "--workers", 0)
    done = call("prepare", "pack", *flags, cwd=".")
    assert done.code == 0, done.err


def forged(desk, kind, change):
    """A copy of a pack in which one sample, and all that the pack says of it, is another one."""
    root = (desk / f"{kind}.lmdb").resolve()
    held = load(get(root, stamp_of(root), LABELS))
    files = held["files"].tobytes().decode().split("\n")
    key = files[0].rpartition(".")[0].encode()
    tensors = load(get(root, stamp_of(root), key))
    change(tensors, held)
    value = save(tensors)
    held["crc32"][0] = zlib.crc32(value)
    if kind == "float32":
        image = np.stack([tensors["VV"], tensors["VH"]]).astype("<f4") + np.float32(0)
        held["content"][0, 0] = hash_of("float32", image)
    first = changed(root, desk, key, value)
    first.rename(desk / "half.lmdb")
    return changed(desk / "half.lmdb", desk, LABELS, save(held))


def one_pixel(tensors, held):
    name = "VV" if "VV" in tensors else next(name for name in tensors if tensors[name].dtype == np.uint8)
    tensors[name] = tensors[name].copy()
    tensors[name].reshape(-1)[7] += 1


def other_label(tensors, held):
    held["labels"] = held["labels"].copy()
    held["labels"][[0, -1]] = held["labels"][[-1, 0]]


@pytest.mark.parametrize("change", [one_pixel, other_label], ids=lambda change: change.__name__)
@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_a_pack_that_is_consistent_in_all_that_it_says_is_another_dataset(desk, kind, change):
    pack(kind)
    # what a contract made of the samples is for models of that contract
    model = STATISTICS if kind == "float32" else ("--model", "test_vit", "--weights", "random", "--input_size", "32")
    assert len(ids(*KNN, *model, data=f"{kind}.lmdb")) == 1
    assert len(ids(*KNN, *model, data=forged(desk, kind, change))) == 2


FACTORY = """
import torch
from torch import nn

class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Conv2d(2, 128, 8, 8)

    def forward(self, images):
        features = self.inner(images).mean((2, 3))
        return torch.cat([features[:, :100], {what} * features[:, 100:]], 1)
"""


def test_code_that_changes_late_features_alone_is_another_model(desk):
    flags = (*KNN, "--model", "own_wide_code:Wide", "--input_size", "32", "--normalizer", "fgmae")
    for number, what in enumerate(("1.0", "0.0"), 1):
        (desk / "own_wide_code.py").write_text(FACTORY.format(what=what))
        sys.modules.pop("own_wide_code", None)
        importlib.invalidate_caches()
        for compiled in desk.glob("__pycache__/*"):
            compiled.unlink()
        assert len(ids(*flags)) == number


class Own(nn.Module):
    """A convolution between two functions that no tensor and no `repr` shows."""

    def __init__(self, before, after):
        super().__init__()
        self.conv = nn.Conv2d(2, 8, 8, 8)
        self.before, self.after = before, after

    def forward(self, images):
        return self.after(self.conv(self.before(images)))


def same(x):
    return x


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (lambda x: x.clamp(-1.2, 1.2), same),
        (lambda x: x.clamp(min=-25), same),
        (lambda x: torch.where(x > 200, 0.0, x), same),
        (lambda x: x.clamp(-2.9, 2.9), same),
        (lambda x: x.abs(), same),
        (same, lambda x: x.flip(-1)),
        (same, lambda x: x.transpose(2, 3)),
        (same, lambda x: x.mean((2, 3))),
        (same, lambda x: x.clamp(max=4)),
    ],
    ids=["z-scores", "dB", "eight bits", "tails", "sign", "mirrored", "transposed", "averaged", "features"],
)
def test_code_that_differs_in_a_range_of_inputs_or_in_places_of_a_map_is_another_model(before, after):
    def known(*functions):
        torch.manual_seed(0)
        made = wrap_module(Own(*functions), Model(model="mine", input_size=32, normalizer="fgmae"))
        return made.weights.sha256, made.behaviour()

    usual, other = known(same, same), known(before, after)
    assert usual == known(lambda x: x + 0, same)
    assert usual[0] != other[0]
    assert usual[1] != other[1]


def test_a_module_that_refuses_some_inputs_is_known_by_the_others():
    def picky(x):
        if x.max() > 100:
            raise ValueError("too large")
        return x

    torch.manual_seed(0)
    assert len(wrap_module(Own(picky, same), Model(model="mine", input_size=32, normalizer="fgmae")).behaviour()) == 9


def vectors(path, order=None, nudge=0.0):
    names = [f"{file.parent.name}/{file.stem}" for file in sorted(shared_world(5).glob("*/*.tif"))]
    values = np.random.default_rng(0).normal(size=(len(names), 8)).astype(np.float32)
    values[0, 0] += nudge
    order = np.arange(len(names)) if order is None else order
    names, values = np.array(names)[order], values[order]
    if path.endswith(".npz"):
        np.savez(path, id=names, vector=values.astype(np.float64))
    else:
        pyarrow.parquet.write_table(pyarrow.table({"id": names, "vector": list(values)}), path)
    return (*KNN, "--model", "embeddings", "--weights", path)


def test_vectors_are_known_by_id_in_any_order_and_file_and_by_every_number(desk):
    draw = np.random.default_rng(1)
    assert len(ids(*vectors("a.npz"))) == 1
    assert len(ids(*vectors("b.parquet"))) == 1
    assert len(ids(*vectors("c.npz", order=draw.permutation(50)))) == 1
    assert len(ids(*vectors("a.npz", nudge=1e-3))) == 2


SPELLINGS = {
    "candidates in another order": (FITTED, ("--weight_decay", "1", "0.1"), ("--weight_decay", "0.1", "1")),
    "neighbours beside a regression": (FITTED, (), ("--knn_k", "3")),
    "views beside neighbours": (KNN, (), ("--views", "1")),
    "order of bands in small letters": (KNN, (), ("--band_order", "vv, vh")),
    "the split by its name": (KNN[:2] + KNN[4:], (), ("--split", "reference")),
    "what a recipe says": (DATA[:2], ("--epochs", "50", "--lr", "0.1"), ("--weight_decay", "0.001")),
    "rate and base rate": (DATA, ("--lr", "0.1"), ("--blr", "1.6")),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_two_spellings_of_one_run_are_one_id(desk, name):
    common, one, other = SPELLINGS[name]
    common = (
        *common,
        *STATISTICS,
        *(("--batch_size", "16", "--features", "cached") if "--probe" not in common else ()),
    )
    assert len(ids(*common, *one)) == 1
    assert len(ids(*common, *other)) == 1


def test_extra_inputs_and_a_patch_have_one_spelling():
    def run(**flags):
        return compose("linear", {"dataset": "eurosat", "model": "galileo-nano", **flags}, load_card("eurosat"))[0]

    assert run(inputs=["location", "month"]) == run(inputs=["month", "location"])
    assert run(inputs=["location", "month"]).model.inputs == ("month", "location")
    assert run(patch_size=4) == run()
    assert run(patch_size=8) != run()
    assert run(bands_as="hv=vh, HH=VV") == run(bands_as="HH=VV,HV=VH")


GROUPED = '\n[groups]\nfile = "scenes.csv"\ncolumn = "scene"\n'


def test_a_table_of_groups_is_part_of_the_run(desk):
    chips = genuine("s1f_chips")
    text = (chips / "card.toml").read_text()
    assert "[groups]" not in text
    (desk / "own").mkdir()
    text = text.replace('name = "s1f_chips"', 'name = "own_chips"').replace("[origin]", GROUPED + "\n[origin]", 1)
    (desk / "own" / "card.toml").write_text(text)
    names = [f"{file.parent.name}/{file.stem}" for file in sorted((chips / "data").glob("*/*.tif"))]
    flags = ("--dataset", "own/card.toml", "--probe", "knn", "--device", "cpu", *STATISTICS)
    for number, size in enumerate((4, 2), 1):
        lines = [f"{name},{row // size}" for row, name in enumerate(names)]
        (desk / "own" / "scenes.csv").write_text("\n".join(["id,scene", *lines]) + "\n")
        done = call("linear", *flags, "--data_path", chips / "data", *FOLDERS, cwd=".")
        assert done.code == 0, done.err
        found = records(desk / "results")
        assert len({record["run_id"] for record in found}) == number
    assert len({json.dumps(record["dataset"]["groups"]) for record in found}) == 2


def test_what_a_card_names_in_a_hidden_folder_is_refused(desk):
    card = edited_card(
        desk / "card.toml", ("[signal]", '[groups]\nfile = ".hidden/scenes.csv"\ncolumn = "scene"\n[signal]')
    )
    done = call("linear", "--dataset", card, "--data_path", shared_world(5), *KNN[4:], *STATISTICS, *FOLDERS, cwd=desk)
    assert done.code == 2
    assert "without names that begin with a dot" in done.err
