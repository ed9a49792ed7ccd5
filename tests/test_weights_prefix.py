"""Keys that no rule finds: the user names their prefix, or a manifest of their own maps them."""

import pytest
import torch
from commands import FOLDERS, call, only_record, said, shared_world
from tiny_checkpoints import weights_manifest

from fgmae_bench.config.run import Model
from fgmae_bench.errors import BenchError
from fgmae_bench.models.build import build_backbone

VIT = {"model": "test_vit", "input_size": 32, "normalizer": "fgmae"}


@pytest.fixture
def weights():
    return build_backbone(Model(weights="random", **VIT), 0).module.vit.state_dict()


def under(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


def loaded(path, **more):
    return build_backbone(Model(weights=str(path), **VIT, **more), 1)


def test_a_prefix_that_no_layout_knows_is_named(tmp_path, weights):
    torch.save({**under(weights, "my_net.trunk."), "my_net.other.weight": torch.rand(3)}, tmp_path / "w.pth")
    with pytest.raises(BenchError):
        loaded(tmp_path / "w.pth")
    backbone = loaded(tmp_path / "w.pth", weights_prefix="my_net.trunk.")
    assert (backbone.weights.used, backbone.weights.dropped, backbone.weights.missing) == (len(weights), 1, 0)
    assert torch.equal(backbone.module.vit.state_dict()["cls_token"], weights["cls_token"])


def test_a_prefix_that_matches_nothing_is_refused_with_what_there_is(tmp_path, weights):
    torch.save(under(weights, "my_net.trunk."), tmp_path / "w.pth")
    with pytest.raises(
        BenchError, match=r"--weights_prefix other.: no key of .* begins with it; its keys begin with my_net"
    ):
        loaded(tmp_path / "w.pth", weights_prefix="other.")


def test_a_prefix_that_matches_nothing_of_a_factorys_file_is_one_line(tmp_path, weights):
    torch.save(weights, tmp_path / "w.pth")
    flags = ("--data_path", shared_world(5), "--model", "torch.nn:Identity", "--weights", "w.pth")
    done = call("linear", "--dataset", "eurosat", *FOLDERS, *flags, "--weights_prefix", "no.", cwd=tmp_path)
    assert "--weights_prefix no.: no key of w.pth begins with it" in said(done)


def test_two_backbones_in_one_file_are_not_chosen_between(tmp_path, weights):
    other = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    torch.save({**under(weights, "backbone."), **under(other, "encoder.")}, tmp_path / "w.pth")
    with pytest.raises(
        BenchError, match=r"a backbone under each of backbone\., encoder\.; choose with --weights_prefix"
    ):
        loaded(tmp_path / "w.pth")
    chosen = loaded(tmp_path / "w.pth", weights_prefix="encoder.")
    assert torch.equal(chosen.module.vit.state_dict()["cls_token"], other["cls_token"])


@pytest.mark.parametrize("weights_flag", ["random", "module"])
def test_a_prefix_without_a_file_is_refused(weights_flag):
    with pytest.raises(BenchError, match="--weights_prefix with --weights"):
        build_backbone(Model(weights=weights_flag, weights_prefix="x.", **VIT), 0)


MANIFEST = weights_manifest(
    "mine", file="FILE", layout="any", more='keys = { "trunk.stage." = "blocks.", "trunk." = "" }'
)


def test_a_manifest_maps_the_keys_of_a_file_on_this_machine_and_owns_its_contract(tmp_path, weights, monkeypatch):
    held = {("trunk." + name).replace("trunk.blocks.", "trunk.stage."): tensor for name, tensor in weights.items()}
    torch.save(held, tmp_path / "w.pth")
    (tmp_path / "own.toml").write_text(MANIFEST.replace("FILE", str(tmp_path / "w.pth")))
    monkeypatch.setenv("FGMAE_BENCH_WEIGHTS", str(tmp_path / "own.toml"))
    flags = ("--dataset", "eurosat", "--data_path", shared_world(5), "--model", "test_vit", "--weights", "mine")
    quick = ("--features", "cached", "--epochs", "1", "--batch_size", "16", *FOLDERS)
    done = call("linear", *flags, *quick, cwd=tmp_path)
    assert done.code == 0, done.err
    model = only_record(tmp_path / "results")["model"]
    assert (model["weights"]["used"], model["weights"]["missing"], model["contract"]["assumed"]) == (
        len(weights),
        0,
        False,
    )
    assert model["contract"]["mean"] == [-20.0, -12.0]


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ('"trunk." = ""', '"trunk." = "", "nowhere." = "x."', "no key begins with nowhere."),
        ("FILE", "/nowhere/w.pth", "/nowhere/w.pth is not there"),
        ("FILE", "inside/w.pth", "key 'repo' is missing"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(tmp_path, weights, monkeypatch, old, new, line):
    held = {("trunk." + name).replace("trunk.blocks.", "trunk.stage."): tensor for name, tensor in weights.items()}
    torch.save(held, tmp_path / "w.pth")
    text = MANIFEST.replace(old, new).replace("FILE", str(tmp_path / "w.pth"))
    (tmp_path / "own.toml").write_text(text)
    monkeypatch.setenv("FGMAE_BENCH_WEIGHTS", str(tmp_path / "own.toml"))
    flags = ("--dataset", "eurosat", "--data_path", shared_world(5), "--model", "test_vit", "--weights", "mine")
    assert line in said(call("linear", *flags, "--features", "cached", *FOLDERS, cwd=tmp_path))
