"""Another label table under the same name, codes that change places, a table applied twice: each is noticed."""

import csv
import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from commands import FOLDERS, call, only_record, records, said
from layout_worlds import LAYOUTS
from test_content_layouts import facts

from fgmae_bench.config.cards import find_card, load_card
from fgmae_bench.data.bigearthnet.labels import multi_hot, nomenclature
from fgmae_bench.data.bigearthnet.metadata import _multi_hot
from fgmae_bench.data.dfc.scenes import classes_of, read_shares
from fgmae_bench.data.packs.read import open_index
from fgmae_bench.data.packs.write import write_pack
from fgmae_bench.data.schemes import DFC, SCHEMES, card_map
from fgmae_bench.errors import BenchError

OTSU = ("--model", "backscatter_stats", "--weights", "random", "--head", "otsu_vv", "--freeze_backbone", *FOLDERS)


def stating(folder, codes, source="dfc", scheme="dfc10"):
    """The card of paired folders with codes of its own under a known name."""
    LAYOUTS["paired_folders"](folder)
    text = (folder / "card.toml").read_text()
    text = text.replace("label_sources.hand", f"label_sources.{source}").replace("{ 0 = 'Land', 1 = 'Water' }", codes)
    text = text.replace("ignore = [-1]", "")
    (folder / "card.toml").write_text(f'label_scheme = "{scheme}"\nlabel_source = "{source}"\n' + text)
    return load_card(str(folder / "card.toml"))


PERMUTED = dict(zip(DFC.codes, [*DFC.codes.values()][::-1], strict=True))


def toml(codes):
    return "{ " + ", ".join(f"{code} = {json.dumps(name)}" for code, name in codes.items()) + " }"


@pytest.mark.parametrize("codes", [PERMUTED, {1: "Water", 10: "Forest"}], ids=["permuted", "two"])
def test_codes_of_a_cards_own_under_a_known_name_are_not_mapped_by_the_known_table(codes, tmp_path):
    with pytest.raises(BenchError, match=r"label_sources\.dfc\.codes are not those of DFC2020, which dfc10 is for"):
        card_map(stating(tmp_path, toml(codes)))


def test_the_known_codes_may_be_stated(tmp_path):
    known = card_map(stating(tmp_path, toml(DFC.codes)))
    assert (dict(known.source.codes), known.scheme) == (dict(DFC.codes), SCHEMES["dfc10"])


# What the tables hold by name: another table needs another name, since runs are known by it.
TABLES = {
    "igbp17": "4b8b1f4fb266",
    "dfc10": "55b4f8aa44bf",
    "dfc10_no_savanna": "1db1a45ce8f4",
    "dfc8": "88f78ae4a6fc",
}


def test_a_scheme_is_its_table():
    held = {
        name: hashlib.sha256(
            json.dumps([scheme.classes, {s: sorted(ids.items()) for s, ids in sorted(scheme.ids.items())}]).encode()
        ).hexdigest()[:12]
        for name, scheme in SCHEMES.items()
    }
    assert held == TABLES


def swapped(folder):
    path = folder / "card.toml"
    path.write_text(path.read_text().replace("{ 0 = 'Land', 1 = 'Water' }", "{ 1 = 'Land', 0 = 'Water' }"))


def test_codes_that_change_places_on_a_card_are_refused_under_its_version_and_another_run_elsewhere(tmp_path):
    LAYOUTS["paired_folders"](tmp_path)
    words = ("--dataset", tmp_path / "card.toml", "--data_path", "data", *OTSU)
    assert call("segment", *words, cwd=tmp_path).code == 0
    first = only_record(tmp_path / "results")
    swapped(tmp_path)
    assert "its facts have changed since version 1 was first used" in said(call("segment", *words, cwd=tmp_path))
    again = call("segment", *words, "--cache_dir", "cache2", cwd=tmp_path)
    assert again.code == 0, again.err
    second = next(each for each in records(tmp_path / "results") if each["run_id"] != first["run_id"])
    assert second["dataset"]["card_sha256"] != first["dataset"]["card_sha256"]
    line = said(call("report", "compare", first["run_id"], second["run_id"], cwd=tmp_path))
    assert "were scored under different classes" in line


def test_a_pack_of_other_codes_is_refused(tmp_path):
    card, root, _ = LAYOUTS["paired_folders"](tmp_path)
    write_pack(card, open_index(card, root), tmp_path / "p.lmdb")
    swapped(tmp_path)
    with pytest.raises(BenchError, match="classes in the order"):
        open_index(load_card(str(tmp_path / "card.toml")), tmp_path / "p.lmdb")


def test_classes_that_change_places_on_a_card_are_another_content(tmp_path):
    card, root, _ = LAYOUTS["class_folders tif"](tmp_path)
    before = facts(card, root, tmp_path / "cache")
    other = dataclasses.replace(card, classes=card.classes[::-1], version=2)
    after = facts(other, root, tmp_path / "cache")
    assert after["content_sha256"] != before["content_sha256"]
    assert after["samples_sha256"] == before["samples_sha256"]


def test_meanings_of_codes_in_a_store_that_change_places_are_another_content(tmp_path):
    zarr = pytest.importorskip("zarr")
    card, root, _ = LAYOUTS["zarr 3"](tmp_path)
    before = facts(card, root, tmp_path / "cache")
    zarr.open_group(root)["label"].attrs["flag_meanings"] = "Water Ice"
    after = facts(card, root, tmp_path / "cache")
    assert after["content_sha256"]["test"] != before["content_sha256"]["test"]


def shipped_table():
    with open(find_card("bigearthnet").parent / "labels.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_43_to_19_table_applied_twice_is_refused_or_says_the_same():
    """A name of the 19 that is one of the 43 as well must mean the same class; any other is refused."""
    of_43 = {row["class_43"]: row["class_19"] for row in shipped_table()}
    for name in nomenclature().classes_19:
        if name in of_43:
            assert of_43[name] == name
            assert np.array_equal(multi_hot([name], "x"), _multi_hot(pa.array([[name]]), Path("x"))[0])
        else:
            with pytest.raises(BenchError, match="unknown label"):
                multi_hot([name], "x")
    only_43 = [name for name, simple in of_43.items() if name != simple]
    assert only_43
    for name in only_43:
        with pytest.raises(BenchError, match="unknown label"):
            _multi_hot(pa.array([[name]]), Path("x"))


def test_shares_of_the_simple_legend_are_not_taken_for_those_of_the_full_one(tmp_path):
    """Classes of scenes come from 17 shares; a table of ten has been through the contest's table already."""
    path = tmp_path / "labels.csv"
    path.write_text("s2," + ",".join(str(n) for n in range(1, 11)) + "\n" + "a," + ",".join(["0.1"] * 10) + "\n")
    with pytest.raises(BenchError):
        read_shares(path)
    assert classes_of(np.eye(17), multi=False).tolist() == [0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 4, 5, 6, 5, 7, 8, 9]
