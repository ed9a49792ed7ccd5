"""What reads one polarisation alone, on data without it: refused in one line by every entry, or fed as it is asked."""

import dataclasses
import json
import shlex

import numpy as np
import pytest
from commands import FOLDERS, call, only_record, rewrite_all, said, shared_world, small_world

import fgmae_bench
from fgmae_bench.config.cards import load_card
from fgmae_bench.config.compose import compose
from fgmae_bench.config.contract import BANDS, FGMAE_CONTRACT, feed, require_read
from fgmae_bench.config.encoders import ENCODERS, encoders
from fgmae_bench.config.names import FITTED_HEADS, READS
from fgmae_bench.errors import BenchError

GREY = ("--model", "sar-hub-resnet18", "--weights", "random")
LINE = (
    "sar-hub-resnet18 reads VV alone, for which data with VH has nothing; pass --missing_band offset to feed VH +7.7 dB "
    "in its place, which is noted, or choose one that reads VH"
)
READERS = [name for name, entry in ENCODERS.items() if entry.one_band]


def card_of(folder, bands, name="eurosat"):
    """A card with other bands, under a name of its own."""
    text, target = load_card(name).path.read_text(), folder / "card.toml"
    text = text.replace(f'name = "{name}"', 'name = "mine"', 1).replace('["VV", "VH"]', json.dumps(list(bands)), 1)
    target.write_text(text)
    return target


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("bands", [("VV",), ("VH",), ("HH", "HV"), ("HV",), ("VH", "HH")], ids="".join)
@pytest.mark.parametrize("offset", [None, "offset"])
def test_a_reader_of_one_band_is_never_fed_a_constant(name, bands, offset, tmp_path):
    """By the bands themselves: what is composed feeds VV or a band that stands for it."""
    card = load_card(str(card_of(tmp_path, bands)))
    allowed = "VV" in bands or ("VH" in bands and offset == "offset")
    given = {
        "dataset": str(card.path),
        "model": name,
        "weights": "random",
        **({"missing_band": offset} if offset else {}),
    }
    if not allowed:
        with pytest.raises(BenchError):
            compose("linear", given, card)
        return
    (run,) = compose("linear", given, card)
    assert feed(bands, FGMAE_CONTRACT, run.data.missing_band).order[BANDS.index("VV")] >= 0


@pytest.mark.parametrize(
    ("bands", "as_", "message"),
    [
        (("VH",), None, "has nothing; pass --missing_band offset to feed VH [+]7.7 dB in its place"),
        (("HV",), "HV=VH", "data with HV has nothing; pass --missing_band offset to feed VH [+]7.7 dB"),
        (("HH", "HV"), "HV=VH", "data with HH and HV has nothing; add HH=VV to --bands_as"),
        (("HH", "HV"), None, "the data holds HH and HV, the backbone expects VV, VH; pass --bands_as HH=VV,HV=VH"),
        (("VH", "HH"), None, "add HH=VV to --bands_as, or choose one that reads VH"),
    ],
)
def test_the_line_says_what_would_do(bands, as_, message):
    with pytest.raises(BenchError, match=message):
        require_read("x", "VV", bands, None, as_)


@pytest.mark.parametrize(
    ("bands", "missing", "as_"),
    [
        (("VV",), None, None),
        (("VH", "VV"), "mean", None),
        (("VH",), "offset", None),
        (("HH",), None, "HH=VV"),
        (("HV",), "offset", "HV=VH"),
    ],
)
def test_what_would_do_does(bands, missing, as_):
    require_read("x", "VV", bands, missing, as_)


def test_vh_is_fed_from_vv_7_7_db_below():
    with pytest.raises(BenchError, match=r"reads VH alone, .* feed VV -7\.7 dB"):
        require_read("x", "VH", ("VV",))


@pytest.fixture(scope="module")
def cross(tmp_path_factory):
    """A world of VH alone, and its card."""
    folder = tmp_path_factory.mktemp("cross")
    return rewrite_all(small_world(folder), lambda db: db[1:2]), card_of(folder, ("VH",))


@pytest.mark.parametrize(
    ("entry", "more"),
    [
        ("linear", ()),
        ("finetune", ()),
        ("stress.__main__", ("--probe", "knn")),
        ("features.__main__", ("--out", "x.parquet")),
    ],
    ids=["linear", "finetune", "stress", "export"],
)
def test_every_entry_refuses_it_in_one_line(entry, more, cross, tmp_path):
    data, card = cross
    head = ("export",) if entry.startswith("features") else ()
    places = FOLDERS[:2] if head else FOLDERS
    done = call(entry, *head, "--dataset", card, "--data_path", data, *GREY, *more, *places, cwd=tmp_path)
    assert (done.code, done.err) == (2, f"error: {LINE}\n")
    assert not list(tmp_path.iterdir())


def test_evaluate_and_segment_refuse_it_too(cross, tmp_path):
    data, card = cross
    with pytest.raises(BenchError) as refusal:
        fgmae_bench.evaluate("sar-hub-resnet18", card, weights="random", data_path=data)
    assert str(refusal.value) == LINE
    tiles = card_of(tmp_path, ("VH",), "sen1floods11")
    done = call("segment", "--dataset", tiles, "--data_path", tmp_path, *GREY, cwd=tmp_path)
    assert (done.code, done.err) == (2, f"error: {LINE}\n")


def test_fitted_heads_of_one_band_are_of_the_kind(tmp_path):
    assert READS == {"otsu_vv": "VV", "otsu_vh": "VH", "log_ratio_vv": "VV", "log_ratio_vh": "VH"}
    assert {*READS} | {"random_forest"} == {*FITTED_HEADS}
    tiles = card_of(tmp_path, ("VV",), "sen1floods11")
    words = ("--dataset", tiles, "--data_path", tmp_path, "--model", "backscatter_stats", "--weights", "random")
    done = call("segment", *words, "--head", "otsu_vh", cwd=tmp_path)
    assert (done.code, "--head otsu_vh reads VH alone, for which data with VV has nothing" in said(done)) == (2, True)


def test_vh_in_the_place_of_vv_runs_where_it_is_asked_for(cross, tmp_path, monkeypatch):
    data, card = cross
    small = dataclasses.replace(ENCODERS["sar-hub-resnet18"], model="grey", variant="test_resnet", weights="random")
    monkeypatch.setitem(encoders(), "grey", small)
    words = ("--dataset", card, "--data_path", data, "--model", "grey", "--input_size", 32)
    assert "grey reads VV alone" in said(call("linear", *words, cwd=tmp_path))
    flags = ("--missing_band", "offset", "--probe", "knn", "--device", "cpu", *FOLDERS)
    done = call("linear", *words, *flags, cwd=tmp_path)
    assert done.code == 0, done.err
    record = only_record(tmp_path / "results")
    inputs = record["dataset"]["contract_inputs"]
    assert inputs["VV"] == {"band": "VH", "shift_db": 7.7}
    assert (inputs["one_band"], inputs["rule"]) == ("VV", "VV is missing: fed as VH +7.7 dB")


SUITE = """
title = "One polarisation"
module = "linear"
protocol = "knn"
[common]
dataset = "card.toml"
data_path = "{data}"
probe = "knn"
model = "sar-hub-resnet18"
weights = "random"
input_size = 32
device = "cpu"
[layout]
columns = ["run", "oa"]
[[runs]]
label = "grey"
flags = {{ {flags} }}
"""


@pytest.mark.slow
def test_a_plan_of_readers_of_one_band_refuses_or_knows_what_is_recorded(cross, tmp_path, monkeypatch):
    data, _ = cross
    monkeypatch.chdir(tmp_path)
    card_of(tmp_path, ("VH",))

    def plan(flags, *more):
        (tmp_path / "mine.toml").write_text(SUITE.format(data=data, flags=flags))
        return call("suite.__main__", "plan", *more, "mine.toml", cwd=tmp_path)

    refused = plan("")
    assert (refused.code, refused.err) == (2, f"error: mine.toml: runs[0].flags: {LINE}\n")
    offset = 'missing_band = "offset"'
    assert plan(offset).out.startswith("to do     mine: grey\n")
    (line,) = plan(offset, "--commands").out.splitlines()
    words = shlex.split(line)
    assert words[1:3] == ["-m", "fgmae_bench.linear"]
    done = call("linear", *words[3:], cwd=tmp_path)
    assert done.code == 0, done.err
    assert plan(offset).out.startswith("recorded  mine: grey\n")
    assert plan(f"{offset}, knn_k = 3").out.startswith("to do ")


def test_an_encoder_of_both_bands_takes_one_and_says_so(cross, tmp_path):
    """The band that is there is informative: allowed, and stated in contract and record."""
    data, card = cross
    words = ("--dataset", card, "--data_path", data, "--model", "test_vit", "--weights", "random", "--probe", "knn")
    done = call("linear", *words, "--device", "cpu", *FOLDERS, cwd=tmp_path)
    assert done.code == 0, done.err
    record = only_record(tmp_path / "results")
    assert record["dataset"]["contract_inputs"]["rule"] == "VV is missing: fed as its mean after the normaliser"
    assert record["metrics"]["test"]["oa"] > 0.1  # of ten classes: more than a constant image gives


def test_a_plain_card_is_fed_as_before():
    assert np.array_equal(feed(BANDS, FGMAE_CONTRACT).order, (0, 1))
    card = load_card("eurosat")
    (run,) = compose(
        "linear", {"dataset": "eurosat", "model": "sarmae-vit-b16", "data_path": str(shared_world(5))}, card
    )
    assert (run.model.model, run.data.missing_band) == ("sarmae-vit-b16", None)
