"""Stress as a user runs it: one head, many views, a record, a card; what it refuses, and how it goes on."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import torch
from commands import FOLDERS, STATISTICS, call, refused, shared_world
from commands import said as said_by
from safetensors import safe_open

import fgmae_bench
from fgmae_bench.config.cards import load_card
from fgmae_bench.config.contract import InputContract
from fgmae_bench.config.run_ids import recorded_id
from fgmae_bench.metrics.single_label import confusion_matrix, single_label
from fgmae_bench.models.pooling import BackscatterStats
from fgmae_bench.records import clean_id, problem_of
from fgmae_bench.report.predictions import find_predictions
from fgmae_bench.runs.tensors import load_tensors

FLAGS = (*STATISTICS[:4], "--probe", "lbfgs", "--penalties", "0.001", "--split", "random_60_20_20")


def stress(*flags, cwd, backbone=FLAGS):
    return call(
        "stress.__main__", "--dataset", "eurosat", "--data_path", shared_world(), *backbone, *FOLDERS, *flags, cwd=cwd
    )


def stressed_record(folder):
    (path,) = (folder / "results" / "records" / "eurosat").glob("stress_*/*.json")
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stress")
    said = stress("--stress", "offset", "speckle", "--draws", 2, cwd=folder)
    assert said.code == 0, said.err
    return folder, said


def test_a_card_holds_the_configuration_and_the_predictions_of_the_run_that_was_stressed(done):
    folder, _ = done
    record, results = stressed_record(folder), folder / "results"
    assert clean_id(record["run_id"]) in recorded_id(record)
    assert find_predictions(record, results).stem == clean_id(record["run_id"])
    assert record["run_id"] in set(fgmae_bench.results(results).predictions()["run_id"])


def test_a_card_is_recorded_and_printed(done):
    folder, said = done
    record = stressed_record(folder)
    assert problem_of(record) is None
    assert record["protocol"] == "stress_logistic_regression"
    assert [item["severity"] for item in record["stress"] if item["name"] == "speckle"] == [1, 2, 3.4, 5, 6.4]
    assert {note["code"] for note in record["notes"]} >= {"unvalidated", "fitted_clean"}
    clean = json.loads(
        next((folder / "results" / "records" / "eurosat" / "logistic_regression").glob("*.json")).read_text()
    )
    assert record["metrics"]["test"] == clean["metrics"]["test"]
    for item in record["stress"]:
        low, high = item["metrics"]["change_interval"]
        assert low <= item["metrics"]["change"] <= high
        assert item["metrics"]["change"] == pytest.approx(item["metrics"]["oa"] - clean["metrics"]["test"]["oa"])
    assert "| offset |" in said.out
    assert "[synthetic data]" in said.out
    assert not list((folder / "out").glob("stress/*"))  # what a restart would have needed


def test_scores_are_those_of_the_head_on_images_three_decibels_up(done):
    folder, _ = done
    kept = load_tensors(folder / "out" / "checkpoint-last.pth")["head"]
    weight, bias, mean, deviation = (kept[name].numpy() for name in ("weight", "bias", "mean", "deviation"))
    (path,) = (folder / "results" / "predictions").glob("*.safetensors")

    with safe_open(path, "np") as stored:
        ids, targets = json.loads(stored.metadata()["ids"]), stored.get_tensor("targets")

    features = []
    for id in ids:
        with rasterio.open(shared_world() / f"{id}.tif") as source:
            features.append(BackscatterStats()(torch.from_numpy(source.read()[None] + np.float32(3.0)))[0].numpy())
    logits = (np.stack(features) - mean) / deviation @ weight.T + bias
    wanted = single_label(confusion_matrix(targets, logits.argmax(1), len(load_card("eurosat").classes)))
    (item,) = (i for i in stressed_record(folder)["stress"] if (i["name"], i["severity"]) == ("offset", 3))
    assert item["metrics"]["oa"] == pytest.approx(wanted["oa"], abs=1e-9)
    assert item["metrics"]["aa"] == pytest.approx(wanted["aa"], abs=1e-9)


def test_a_second_run_has_nothing_to_do_and_other_severities_are_another(done):
    folder, said = done
    again = stress("--stress", "speckle", "offset", "--draws", 2, cwd=folder)
    assert again.out == said.out
    assert again.err.count("recorded already") == 2
    one = stress("--stress", "offset", "--severities", 2, 1, cwd=folder)
    assert one.code == 0, one.err
    assert "1: " in one.out
    assert len(list((folder / "results" / "records" / "eurosat").glob("stress_*/*.json"))) == 2


def test_views_that_were_scored_are_read_again_after_an_interruption(tmp_path, monkeypatch):
    from fgmae_bench.stress import probed as engine

    real, made = engine.extract, []

    def counted(extractor, *given):
        made.append(extractor.view.severity)
        if len(made) == 3:
            raise KeyboardInterrupt
        return real(extractor, *given)

    monkeypatch.setattr(engine, "extract", counted)
    assert stress("--stress", "offset", cwd=tmp_path).code == 130
    assert stress("--stress", "offset", cwd=tmp_path).code == 0
    assert made == [0.3, 0.5, 1, 1, 2, 3]


@pytest.mark.parametrize("probe", ["knn", "sgd"])
def test_other_probes_have_cards_too(tmp_path, probe):
    flags = (*STATISTICS, "--probe", "sgd") if probe == "sgd" else (*STATISTICS[:4], "--probe", "knn")
    said = stress("--stress", "floor", "--severities", -25, cwd=tmp_path, backbone=flags)
    assert said.code == 0, said.err
    record = stressed_record(tmp_path)
    assert record["metrics"]["tolerance"]["floor"]["withheld"] == "it has one severity"


def test_a_contract_that_normalises_every_image_hides_its_calibration(tmp_path):
    """CROMA's window by image cannot see an offset; a fixed window can, and scores more on clean data."""
    window = ("--mean", "-12.59", "-20.26", "--std", "5.26", "5.91")
    found = {}
    for normalizer in ("croma", "two_sigma"):
        backbone = (
            "--model",
            "patch_means:mapping",
            "--normalizer",
            normalizer,
            "--input_size",
            64,
            "--no_null",
            *window,
            *FLAGS[4:],
        )
        folder = tmp_path / normalizer
        folder.mkdir()
        said = stress("--stress", "offset", cwd=folder, backbone=backbone)
        assert said.code == 0, said.err
        found[normalizer] = stressed_record(folder)
    changes = {name: [item["metrics"]["change"] for item in record["stress"]] for name, record in found.items()}
    assert changes["croma"] == [0] * 5
    assert changes["two_sigma"][-1] < -0.05
    assert found["two_sigma"]["metrics"]["test"]["oa"] > found["croma"]["metrics"]["test"]["oa"] + 0.1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--stress", "speckel"), "unknown stress 'speckel'"),
        (("--stress", "speckle", "--severities", "-1"), "severity from 0 to 10"),
        (("--severities", "1"), "without one --stress"),
        (("--stress", "offset", "offset"), "twice"),
        (("--stress", "offset", "--severities", "0"), "changes nothing"),
        (("--draws", "0"), "--draws 0"),
        (("--theta", "95"), "--theta 95"),
        (("--theta", "38", "--stress", "offset"), "none needs an angle"),
        (("--stress", "quantised", "--severities", "1e-50"), "severity from 0.001 to 10"),
        (("--lr", "0.1", "1", "--probe", "sgd"), "2 runs; give one --lr: a card is of one head"),
        (("--shots", "2"), "5 runs; give one --draw"),
        (("--train_stress", "offset:1", "offset:1"), "--train_stress offset:1 twice"),
    ],
)
def test_bad_flags_are_refused_in_one_line(tmp_path, flags, words):
    assert words in refused(*flags, cwd=tmp_path, run=stress)


def test_what_the_data_does_not_allow_is_refused(tmp_path):
    card = load_card("eurosat").path.read_text()
    for change, name, words in [
        (('calibration = "unstated"', 'calibration = "gamma0"'), "gamma0", "in gamma nought already"),
        (("[signal]", "[signal]\nfiltered = true"), "speckle", "filtered or averaged"),
    ]:
        path = tmp_path / f"{name}.toml"
        assert change[0] in card
        path.write_text(card.replace(*change).replace('name = "eurosat"', f'name = "{name}"'))
        flags = ("--dataset", path, "--data_path", shared_world(), *FLAGS, *FOLDERS, "--stress", name)
        line = said_by(call("stress.__main__", *flags, cwd=tmp_path))  # one line, before anything is fitted
        assert words in line
        assert not (tmp_path / "results").exists()


def test_a_stressed_view_keeps_everything_that_the_clean_view_says_of_its_input(monkeypatch):
    """The shift of bands that stand in for others, and the statistics of a run of images, were lost on the way."""
    from fgmae_bench.stress import scorer
    from fgmae_bench.stress.flags import Options
    from fgmae_bench.views.chip import Chip
    from fgmae_bench.views.classification import View

    monkeypatch.setattr(scorer, "sample_facts", lambda *given: {"moments": np.zeros(1)})
    monkeypatch.setattr(scorer, "mean_and_deviation", lambda *given: ((-12.0, -20.0), None))
    card = load_card("eurosat")
    contract = InputContract(
        bands=("VV", "VH"), mean=(-12.0, -20.0), std=(5.0, 6.0), normalizer="two_sigma", geometry="native", size=8
    )
    shifted = View(contract=contract, order=(0, 1), shift=(1.5, -2.0), words=("HH is taken for VV",))
    of_a_run = View(contract=contract, order=(0, 1), statistics={"a": ((-10.0, -15.0), (2.0, 3.0))})
    index, train = SimpleNamespace(ids=("a",), groups=None), np.array([0])
    dataset = SimpleNamespace(index=index, card=card, samples=None, parts=SimpleNamespace(train=train))
    run = SimpleNamespace(data=SimpleNamespace(band_order=None), execution=SimpleNamespace(cache_dir="cache"))
    db = np.random.default_rng(0).normal(-15, 3, (2, 8, 8)).astype(np.float32)
    chip = Chip(db=db, valid=None, synthetic=True)
    for view in (shifted, of_a_run):
        stressed = scorer.Views(dataset, view, run, Options()).view("offset", 0.0, 0)
        for field in dataclasses.fields(View):
            assert getattr(stressed, field.name) == getattr(view, field.name), field.name
        assert np.array_equal(stressed.batch([chip], ["a"]), view.batch([chip], ["a"]))
