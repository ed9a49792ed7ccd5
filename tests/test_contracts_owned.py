"""A contract is stated by somebody or assumed and said so; a factory's weights are those that the flag names."""

import re

import numpy as np
import pytest
import rasterio
import torch
from commands import FOLDERS, PLACES, call, codes, edited_card, only_record, said, shared_world
from torch import nn

import fgmae_bench
from fgmae_bench.config.cards import load_card
from fgmae_bench.config.compose import compose
from fgmae_bench.config.contract import RAW_CONTRACT, InputContract
from fgmae_bench.config.experiments import Experiment, Layout, PlannedRun, matches
from fgmae_bench.config.run import Model
from fgmae_bench.data.dataset import open_dataset
from fgmae_bench.errors import BenchError
from fgmae_bench.models.build import build_backbone
from fgmae_bench.models.contracts import resolve_contract

SHORT = ("--dataset", "eurosat", "--features", "cached", "--epochs", "1", "--batch_size", "16", *FOLDERS)
FACTORY = """
import torch
from torch import nn

class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 8, 8)
    def forward(self, x):
        return self.conv(x)

def trained():
    model = Mean()
    nn.init.constant_(model.conv.weight, 0.25)
    return model

def plain():
    return Mean()

class Stubborn(Mean):
    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.ones(2, 2))

class Reloading(Mean):
    def init_weights(self):
        nn.init.constant_(self.conv.weight, 0.25)

def reloading():
    model = Reloading()
    model.init_weights()
    return model
"""


@pytest.fixture
def desk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "own_factory", raising=False)
    (tmp_path / "own_factory.py").write_text(FACTORY)
    return tmp_path


def weights_of(backbone):
    return backbone.module.inner.conv.weight.detach()


def factory(name, weights):
    return Model(model=f"own_factory:{name}", weights=weights, input_size=32, normalizer="decibels")


def test_weights_beside_a_factory_are_loaded(desk):
    state = {"conv.weight": torch.rand(6, 2, 8, 8), "conv.bias": torch.rand(6)}
    torch.save(state, desk / "w.pth")
    loaded = build_backbone(factory("trained", "w.pth"), 0)
    assert torch.equal(weights_of(loaded), state["conv.weight"])
    assert (loaded.weights.source, loaded.weights.used) == ("w.pth", 2)
    assert torch.equal(weights_of(build_backbone(factory("trained", "module"), 0)), torch.full((6, 2, 8, 8), 0.25))


def test_a_random_control_of_a_random_factory_is_no_refusal(desk):
    assert weights_of(build_backbone(factory("plain", "random"), 0)).std() > 0.01


@pytest.mark.parametrize(
    ("name", "weights", "line"),
    [
        ("trained", "absent.pth", "no such file"),
        ("trained", "fgmae", "leave --weights out"),
        ("Stubborn", "random", "Stubborn without reset_parameters"),
        ("reloading", "random", "the same after it was drawn again"),
    ],
)
def test_a_flag_that_a_factory_cannot_meet_is_refused(desk, name, weights, line):
    with pytest.raises(BenchError, match=line):
        build_backbone(factory(name, weights), 0)


def test_keys_that_a_factory_does_not_know_are_refused(desk):
    torch.save({"conv.weight": torch.rand(6, 2, 8, 8), "conv.bias": torch.rand(6), "more": torch.rand(3)}, "w.pth")
    with pytest.raises(BenchError, match="1 keys that the model does not know: more"):
        build_backbone(factory("trained", "w.pth"), 0)


def test_a_random_control_of_a_factory_is_random_and_its_seed_decides(desk):
    drawn = [weights_of(build_backbone(factory("trained", "random"), seed)) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert drawn[0].std() > 0.01


def test_a_factory_without_weights_keeps_its_own_and_random_is_another_run(desk):
    flags = (*SHORT, "--data_path", shared_world(5), "--model", "own_factory:trained", "--input_size", "32")
    stated = ("--normalizer", "decibels")
    assert call("linear", *flags, *stated, cwd=desk).code == 0
    own = only_record(desk / "results")
    assert own["model"]["weights"]["source"] == "module"
    assert own["config"]["model"]["weights"] == "module"
    assert call("linear", *flags, *stated, "--weights", "random", "--results_dir", "other", cwd=desk).code == 0
    random = only_record(desk / "other")
    assert random["model"]["weights"]["source"] == "random"
    assert random["run_id"] != own["run_id"]
    assert "no such file" in said(call("linear", *flags, *stated, "--weights", "x.pth", cwd=desk))


def pixels(world, ids):
    """(N, 2, H, W) dB, read without the suite."""
    images = []
    for name in ids:
        with rasterio.open(world / f"{name}.tif") as source:
            images.append(source.read())
    return np.stack(images).astype(np.float64)


def unknown_checkpoint(desk):
    vit = build_backbone(Model(model="test_vit", weights="random", input_size=32), 0).module.vit
    torch.save(vit.state_dict(), desk / "mine.pth")
    data = shared_world(5)
    return data, (*SHORT, "--data_path", data, "--model", "test_vit", "--weights", "mine.pth", "--input_size", "32")


def test_a_checkpoint_of_unknown_origin_gets_z_scores_of_the_training_split_and_says_so(desk):
    data, flags = unknown_checkpoint(desk)
    first = call("linear", *flags, cwd=desk)
    assert first.code == 0, first.err
    assert first.err.count("nobody stated the input that the weights mine.pth were trained on") == 1
    record = only_record(desk / "results")
    contract = record["model"]["contract"]
    assert (contract["normalizer"], contract["assumed"], contract["calibration"]) == ("zscore", True, "unstated")
    assert "contract_assumed" in codes(record)
    assert not {"contract_mismatch", "calibration_mismatch"} & set(codes(record))
    card = load_card("eurosat")
    run = compose("linear", {"dataset": "eurosat", "data_path": str(data)}, card)[0]
    trained_on = pixels(data, open_dataset(card, run, desk / "cache").ids("train"))
    assert contract["mean"] == pytest.approx(trained_on.mean((0, 2, 3)), abs=6e-4)
    assert contract["std"] == pytest.approx(trained_on.std((0, 2, 3)), abs=6e-4)
    assert record["config"]["model"]["normalizer"] is None


def test_who_states_the_contract_gets_it_without_a_note(desk):
    _, flags = unknown_checkpoint(desk)
    assert call("linear", *flags, "--normalizer", "fgmae", cwd=desk).code == 0
    record = only_record(desk / "results")
    assert not {"contract_mismatch", "contract_assumed"} & set(codes(record))
    assert record["model"]["contract"]["assumed"] is False
    own = ("--normalizer", "zscore", "--mean", "-11.5", "-18", "--std", "4.5", "5", "--results_dir", "other")
    assert call("linear", *flags, *own, cwd=desk).code == 0
    stated = only_record(desk / "other")["model"]["contract"]
    assert (stated["mean"], stated["std"], stated["assumed"]) == ([-11.5, -18.0], [4.5, 5.0], False)
    assert "contract_assumed" not in codes(only_record(desk / "other"))


def test_means_over_known_weights_hold_and_are_not_assumed():
    model = Model(model="vit_small_patch16", weights="fgmae", mean=(-11.0, -18.0), std=(5.0, 5.0))
    contract = resolve_contract(model)
    assert (contract.mean, contract.normalizer, contract.assumed) == ((-11.0, -18.0), "fgmae", False)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (("--mean", "-12", "--std", "5"), "--mean has 1 values"),
        (("--mean", "-12", "-20", "--std", "5", "0"), "--std is 5 0"),
        (("--mean", "-12", "-20", "--std", "5", "-1"), "--std is 5 -1"),
        (("--mean", "-12", "-20"), "--mean without --std"),
        (("--std", "5", "5"), "--std without --mean"),
        (("--mean", "nan", "-20", "--std", "5", "5"), "NaN or infinity"),
    ],
)
def test_statistics_that_cannot_be_are_refused(desk, flags, line):
    answer = call("linear", *SHORT, "--data_path", shared_world(5), "--weights", "random", *flags, cwd=desk)
    assert (answer.code, line in said(answer)) == (2, True)


QUICK = {"features": "cached", "epochs": 1, "batch_size": 16}


def record_of(name, **more):
    model = nn.Sequential(nn.Conv2d(2, 8, 8, 8), nn.GELU())
    given = {"input_size": 32, **more} if "contract" not in more else more
    return fgmae_bench.evaluate(model, "eurosat", name=name, data_path=shared_world(5), **QUICK, **PLACES, **given)


@pytest.mark.parametrize("name", ["vit_small_patch16", "seg_fgmae_s", "backscatter_stats", "resnet50", "croma_base"])
def test_names_of_known_models_are_reserved(desk, name):
    with pytest.raises(BenchError, match="is a model of the suite"):
        record_of(name)


def table(**flags):
    runs = (PlannedRun(label="row", flags={"dataset": "eurosat", "batch_size": 16, **flags}),)
    layout = Layout(columns=("run",))
    return Experiment(title="T", module="linear", protocol="linear_probe", layout=layout, runs=runs)


def test_a_module_fills_no_row_of_named_weights_and_an_assumed_contract_none_at_all(desk):
    stated = record_of("mine", normalizer="zscore", mean=[-12, -20], std=[5, 5])
    assumed = record_of("mine")
    assert stated["run_id"] != assumed["run_id"]
    for weights in ("fgmae", "random"):
        planned = table(model="mine", weights=weights, features="cached", epochs=1, input_size=32)
        assert not matches(planned, planned.runs[0], stated)
    own = table(model="mine", weights="module", features="cached", epochs=1, input_size=32)
    assert matches(own, own.runs[0], stated)
    assert not matches(own, own.runs[0], assumed)


def test_a_contract_from_python(desk):
    contract = InputContract(normalizer="zscore", mean=(-12.0, -20.0), std=(5.0, 5.0), size=32)
    held = record_of("mine", contract=contract)["model"]["contract"]
    assert (held["normalizer"], held["mean"], held["size"], held["assumed"]) == ("zscore", [-12.0, -20.0], 32, False)
    with pytest.raises(BenchError, match="state the input once"):
        record_of("mine", contract=contract, normalizer="db")


def copied_card(desk, old, new):
    (desk / "own").mkdir()
    path = desk / "own" / "card.toml"
    text = load_card("eurosat").path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return str(path)


def test_a_copy_of_a_shipped_card_may_keep_its_name_while_its_facts_are_the_same(desk):
    assert load_card(copied_card(desk, 'title = "', 'title = "My copy of ')).name == "eurosat"


def test_a_foreign_card_with_a_shipped_name_is_refused(desk):
    path = copied_card(desk, "size = [64, 64]", "size = [32, 32]")
    with pytest.raises(BenchError, match="name = 'eurosat' is a card of the suite, and signal differ"):
        load_card(path)


def test_toml_with_a_byte_order_mark_is_read(desk):
    path = desk / "card.toml"
    path.write_bytes(b"\xef\xbb\xbf" + load_card("eurosat").path.read_bytes())
    assert load_card(str(path)).name == "eurosat"


def test_a_card_whose_facts_changed_under_its_version_is_refused(desk):
    card = edited_card(desk / "card.toml", ("max_invalid_fraction", "max_invalid_fraction"))
    flags = ("--dataset", "card.toml", *SHORT[2:], "--data_path", shared_world(5), "--model", "backscatter_stats")
    assert call("linear", *flags, cwd=desk).code == 0
    text = card.read_text()
    assert "nodata" in text
    card.write_text(text.replace("leaky = true", "leaky = false", 1))
    line = said(call("linear", *flags, cwd=desk))
    assert "its facts have changed since version 1 was first used; write version = 2 in it, or another name" in line
    card.write_text(text.replace("leaky = true", "leaky = false", 1).replace("version = 1", "version = 2", 1))
    assert call("linear", *flags, cwd=desk).code == 0


def test_cards_of_one_name_in_two_folders_are_two_and_the_version_that_is_free_is_named(desk):
    changes = ("leaky = true", "leaky = false"), ("max_invalid_fraction = 0.5", "max_invalid_fraction = 0.51")
    flags = (*SHORT[2:], "--data_path", shared_world(5), "--model", "backscatter_stats")
    text = edited_card(desk / "a.toml", ("version = 1", "version = 1")).read_text()
    assert all(old in text for old, _ in changes)
    for folder, change in (("a", ()), ("b", changes[0])):
        (desk / folder).mkdir()
        (desk / folder / "card.toml").write_text(text.replace(*change, 1) if change else text)
        done = call("linear", "--dataset", f"{folder}/card.toml", *flags, cwd=desk)
        assert done.code == 0, done.err
    first = (desk / "a" / "card.toml").read_text().replace("version = 1", "version = 2", 1)
    (desk / "a" / "card.toml").write_text(first.replace(*changes[0], 1))
    assert call("linear", "--dataset", "a/card.toml", *flags, cwd=desk).code == 0
    (desk / "a" / "card.toml").write_text(text.replace(*changes[1], 1))  # drafted again, of other data
    line = said(call("linear", "--dataset", "a/card.toml", *flags, cwd=desk))
    assert "a/card.toml: its facts have changed since version 1 was first used; write version = 3 in it" in line


@pytest.mark.parametrize("name", ["backscatter_stats", "place_and_month"])
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"weights": "/nope.pth"}, "--weights /nope.pth: {name} has none"),
        ({"weights": "imagenet"}, "--weights imagenet: {name} has none"),
        ({"mean": (1.0, 2.0), "std": (1.0, 2.0)}, "{name} takes raw dB: --mean and --std mean nothing for it"),
        ({"mean": (1.0,), "std": (1.0,)}, "--mean has 1 values"),
        ({"mean": (1.0, 2.0), "std": (1.0, 0.0)}, "--std is 1 0"),
        ({"mean": (1.0, 2.0), "std": (1.0, -2.0)}, "--std is 1 -2"),
        ({"std": (1.0, 2.0)}, "--std without --mean"),
        ({"weights_prefix": "x."}, "--weights_prefix means nothing for {name}"),
        ({"patch_size": 8}, "--patch_size means nothing for {name}"),
        ({"pool": "mean"}, "--pool means nothing for {name}"),
    ],
)
def test_a_model_without_a_network_refuses_what_it_would_ignore(name, flags, message):
    with pytest.raises(BenchError, match=re.escape(message.format(name=name))):
        resolve_contract(Model(model=name, **flags))


def test_embeddings_refuse_what_they_would_ignore(tmp_path):
    for flags in ({"mean": (1.0, 2.0), "std": (1.0, 2.0)}, {"weights_prefix": "x."}, {"pool": "cls"}):
        with pytest.raises(BenchError, match="mean"):
            resolve_contract(Model(model="embeddings", weights=str(tmp_path / "e.npz"), **flags))


def test_a_factory_refuses_a_patch_that_it_would_ignore():
    with pytest.raises(BenchError, match="its patch is fixed"):
        build_backbone(Model(model="torch.nn:Identity", weights="module", patch_size=8), 0)


def test_the_contract_that_a_run_of_a_model_without_a_network_recorded_is_taken_back():
    recorded = {"normalizer": "db", "mean": RAW_CONTRACT.mean, "std": RAW_CONTRACT.std, "weights": "none"}
    assert resolve_contract(Model(model="backscatter_stats", **recorded)) == RAW_CONTRACT
