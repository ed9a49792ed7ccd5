"""A pack says which samples it was made of: the hash of their pixels and label maps, also where eight bits are left."""

import shutil

import numpy as np
import pytest
import rasterio
from commands import FOLDERS, call, only_record, records, said, shared_world
from pack_files import changed
from safetensors.numpy import load, save

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.compose import compose
from fgmae_bench.config.contract import FGMAE_CONTRACT
from fgmae_bench.data.dataset import only_usable, open_dataset
from fgmae_bench.data.dfc.ready import with_labels
from fgmae_bench.data.layouts import build_index
from fgmae_bench.data.packs.format import LABELS
from fgmae_bench.data.packs.read import open_pack
from fgmae_bench.data.packs.store import get, stamp_of
from fgmae_bench.data.packs.write import write_pack
from fgmae_bench.data.schemes import label_map
from fgmae_bench.errors import BenchError
from fgmae_bench.views.classification import make_view
from fgmae_bench.worlds.dfc import write_dfc

QUICK = ("--dataset", "eurosat", "--model", "test_vit", "--weights", "random", "--input_size", "32")
SHORT = (*QUICK, "--features", "cached", "--epochs", "1", "--batch_size", "16", *FOLDERS)


def pack(source, out, kind, cwd):
    flags = ("eurosat", "--data_path", source, "--out", out, "--dtype", kind, "--workers", 0)
    done = call("prepare", "pack", *flags, cwd=cwd)
    assert done.code == 0, done.err


def test_a_run_on_eight_bits_names_the_content_of_a_run_on_the_files(tmp_path):
    data = shared_world(5)
    pack(data, "full.lmdb", "float32", tmp_path)
    pack("full.lmdb", "small.lmdb", "uint8", tmp_path)
    for number, root in enumerate((data, "small.lmdb", "full.lmdb")):
        done = call("linear", *SHORT, "--data_path", root, "--results_dir", f"r{number}", cwd=tmp_path)
        assert done.code == 0, done.err
    files, small, full = (only_record(tmp_path / f"r{number}")["dataset"] for number in range(3))
    assert small["source_content_sha256"] == files["content_sha256"]
    assert small["content_sha256"]["test"] != files["content_sha256"]["test"]
    assert "source_content_sha256" not in files
    assert full == files
    shutil.copytree(tmp_path / "r0", tmp_path / "both")
    shutil.copytree(tmp_path / "r1", tmp_path / "both", dirs_exist_ok=True)
    ids = [record["run_id"] for record in records(tmp_path / "both")]
    compared = call("report", "compare", *ids, "--results_dir", "both", cwd=tmp_path)
    assert compared.code == 0, compared.err  # one and the same test samples


def test_verify_prints_the_hash_of_the_source_and_an_older_pack_says_nothing(tmp_path):
    pack(shared_world(5), "full.lmdb", "float32", tmp_path)
    pack(shared_world(5), "small.lmdb", "uint8", tmp_path)
    lines = [call("prepare", "verify", name, cwd=tmp_path).out for name in ("full.lmdb", "small.lmdb")]
    told = [next(line for line in text.splitlines() if line.startswith("made of:")) for text in lines]
    assert told[0] == told[1]
    assert len(told[0].rpartition(" ")[2]) == 64
    older = without_content(tmp_path / "small.lmdb", tmp_path)
    assert "made of: not stated (an older pack)" in call("prepare", "verify", older, cwd=tmp_path).out
    done = call("linear", *SHORT, "--data_path", older, cwd=tmp_path)
    assert done.code == 0, done.err
    assert "source_content_sha256" not in only_record(tmp_path / "results")["dataset"]


def labels_of(root):
    return load(get(root.resolve(), stamp_of(root.resolve()), LABELS))


def without_content(root, tmp_path):
    kept = {name: values for name, values in labels_of(root).items() if name != "content"}
    return changed(root, tmp_path, LABELS, save(kept))


def test_a_pack_that_states_other_pixels_than_it_holds_is_refused(tmp_path):
    pack(shared_world(5), "full.lmdb", "float32", tmp_path)
    held = labels_of(tmp_path / "full.lmdb")
    held["content"][3] ^= 1
    wrong = changed(tmp_path / "full.lmdb", tmp_path, LABELS, save(held))
    line = said(call("linear", *SHORT, "--data_path", wrong, cwd=tmp_path))
    assert "1 samples are not those that it was made of" in line
    verified = call("prepare", "verify", wrong, "--data_path", shared_world(5), "--workers", 0, cwd=tmp_path)
    assert verified.code == 2
    assert "1 of 50 samples of" in verified.err


def test_hashes_of_other_label_maps_are_refused(tmp_path):
    pack(shared_world(5), "full.lmdb", "float32", tmp_path)
    held = labels_of(tmp_path / "full.lmdb")
    held["content"] = np.repeat(held["content"], 2, axis=1)
    wrong = changed(tmp_path / "full.lmdb", tmp_path, LABELS, save(held))
    with pytest.raises(BenchError, match="hashes of other label maps"):
        open_pack(load_card("eurosat"), wrong)


def content(root, tmp_path):
    """(content, content of the source) of a segmentation dataset as a run sees it."""
    card = load_card("dfc2020")
    flags = {"dataset": "dfc2020", "split": "community", "data_path": str(root), "partial": True, "num_workers": 0}
    run = compose("segment", flags, card)[0]
    cache = tmp_path / "cache"
    scheme = label_map("dfc", "dfc10")
    found = with_labels(only_usable(open_dataset(card, run, cache), run, cache), scheme, scheme, cache, workers=0)
    return found.facts["content_sha256"], found.source


def test_label_maps_of_the_source_count_though_eight_bits_keep_them_otherwise(tmp_path):
    root, card = tmp_path / "tiles", load_card("dfc2020")
    write_dfc(root, tiles=24, size=32)
    write_pack(card, build_index(card, root), tmp_path / "p.lmdb", view=make_view(card, FGMAE_CONTRACT, None))
    of_files, none = content(root, tmp_path)
    assert none is None
    of_pack, made_of = content(tmp_path / "p.lmdb", tmp_path)
    assert made_of == of_files
    assert of_pack["test"] != of_files["test"]


def test_one_changed_label_pixel_is_another_content_of_a_segmentation_dataset(tmp_path):
    root = tmp_path / "tiles"
    write_dfc(root, tiles=24, size=32)
    before, _ = content(root, tmp_path)
    file = sorted(root.glob("*validation*/dfc_validation/*.tif"))[0]
    with rasterio.open(file, "r+") as target:
        codes = target.read(1)
        codes[3, 4] = 1 if codes[3, 4] != 1 else 2
        target.write(codes, 1)
    after, _ = content(root, tmp_path)
    assert after["test"] != before["test"]
    assert after["train"] == before["train"]
