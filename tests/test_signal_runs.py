"""Runs on data that is not VV and VH in dB: converted on reading, one polarisation, HH and HV; what records say."""

import numpy as np
import pytest
from commands import call, edited_card, linear, only_record, records, rewrite_all, said, small_world

from fgmae_bench.config.cards import facts_sha256, load_card
from fgmae_bench.config.run import Data, Model, Run
from fgmae_bench.config.run_ids import run_hash


def world(folder, name, change):
    folder = folder / name
    folder.mkdir()
    return rewrite_all(small_world(folder), change)


def run(data, card, cwd, *flags):
    done = linear(data, *flags, cwd=cwd, dataset=card)
    assert done.code == 0, done.err
    return done


def own(cwd, name, *replacements):
    return edited_card(cwd / f"{name}.toml", *replacements)


NODATA = "nodata = [-99.0]"


def power_of(db):
    """Linear power, stored as float32."""
    return (10 ** (db.astype(np.float64) / 10)).astype(np.float32)


def test_power_converted_on_reading_gives_the_run_of_data_converted_before(tmp_path):
    """The same content, the same scores to the last bit; only the card differs."""
    power = world(tmp_path, "power", power_of)
    stated = own(tmp_path, "power", ('units = "dB"', 'units = "linear_power"'), (NODATA, "nodata = []"))
    run(power, stated, tmp_path, "--results_dir", "a", "--cache_dir", "a-cache")
    before = world(tmp_path, "before", lambda db: (10 * np.log10(power_of(db).astype(np.float64))).astype(np.float32))
    stated = own(tmp_path, "db", (NODATA, "nodata = []"))
    run(before, stated, tmp_path, "--results_dir", "b", "--cache_dir", "b-cache")
    (one,), (other,) = records(tmp_path / "a"), records(tmp_path / "b")
    assert one["dataset"]["content_sha256"] == other["dataset"]["content_sha256"]
    assert one["metrics"] == other["metrics"]
    assert (one["dataset"]["units"], other["dataset"]["units"]) == ("linear_power", "dB")


def test_a_pack_of_power_holds_db_and_gives_the_same_run(tmp_path):
    def change(db):
        power = 10 ** (db.astype(np.float64) / 10)
        power[:, 30, 30:33] = -1e-5  # dark water after noise subtraction
        return power.astype(np.float32)

    power = world(tmp_path, "power", change)
    stated = own(tmp_path, "own", ('units = "dB"', 'units = "linear_power"'), (NODATA, "nodata = []"))
    done = call("prepare", "pack", stated, "--data_path", power, "--out", "p.lmdb", cwd=tmp_path)
    assert done.code == 0, done.err
    assert call("prepare", "verify", "p.lmdb", "--dataset", stated, "--data_path", power, cwd=tmp_path).code == 0
    run(power, stated, tmp_path)
    first = only_record(tmp_path / "results")
    assert [note["text"][:41] for note in first["notes"] if note["code"] == "floored"] == [
        "300 pixels without positive power, as noi"
    ]
    again = run("p.lmdb", stated, tmp_path)
    assert "already" in again.err + again.out or only_record(tmp_path / "results") == first


@pytest.mark.parametrize(
    ("bands", "keep", "flags", "rule"),
    [
        ('["VV"]', slice(0, 1), (), "VH is missing: fed as its mean after the normaliser"),
        ('["VH"]', slice(1, 2), ("--missing_band", "offset"), "VV is missing: fed as VH +7.7 dB"),
        (
            '["HH", "HV"]',
            slice(0, 2),
            ("--bands_as", "HH=VV,HV=VH"),
            "HH stands for VV, as asked; HV stands for VH, as asked",
        ),
    ],
    ids=["one", "offset", "quad"],
)
def test_what_stands_for_a_band_is_in_the_record(tmp_path, bands, keep, flags, rule):
    data = world(tmp_path, "w", lambda db: db[keep])
    stated = own(tmp_path, "own", ('bands = ["VV", "VH"]', f"bands = {bands}"))
    run(data, stated, tmp_path, *flags)
    record = only_record(tmp_path / "results")
    inputs = record["dataset"]["contract_inputs"]
    assert inputs["rule"] == rule
    assert record["dataset"]["band_order"] == [band.strip('" ') for band in bands.strip("[]").split(",")]
    assert "; ".join(note["text"] for note in record["notes"] if note["code"] == "bands_fed") == rule
    assert 0 <= record["metrics"]["test"]["oa"] <= 1


def test_hh_and_hv_are_refused_unless_asked_for(tmp_path):
    data = world(tmp_path, "w", lambda db: db)
    stated = own(tmp_path, "own", ('bands = ["VV", "VH"]', 'bands = ["HH", "HV"]'))
    line = said(linear(data, cwd=tmp_path, dataset=stated))
    assert "holds HH and HV, the backbone expects VV, VH; pass --bands_as HH=VV,HV=VH" in line


def test_runs_and_cards_that_say_nothing_of_the_new_fields_keep_their_hashes():
    """Pinned before the fields were there."""
    assert facts_sha256(load_card("eurosat"))[:16] == PINNED["card"]
    from fgmae_bench.config.recipes import ProbeRecipe

    run = Run(data=Data(dataset="eurosat"), model=Model(), recipe=ProbeRecipe(lr=0.1), execution=None)
    assert run_hash(run, {"card": "eurosat"})[:16] == PINNED["run"]


PINNED = {"card": "2c1ea6b69c9eac41", "run": "e68d63c7c059a017"}
