"""Conversion: every known layout to the backbone's tensors alone, repaired where asked for, equal before the file takes
its name.
"""

import argparse
import json
import pickle
import warnings

import numpy as np
import pytest
import timm
import torch
from commands import call, listing, refused
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_checkpoints import ENCODER, TINY, arrays, expected_features, features, nested, renamed, tiny_vit
from torch import nn

from fgmae_bench.checkpoints import convert as convert_room
from fgmae_bench.checkpoints.convert import KEY
from fgmae_bench.checkpoints.load import load_backbone
from fgmae_bench.checkpoints.reader import read_state
from fgmae_bench.checkpoints.registry import WEIGHTS
from fgmae_bench.checkpoints.shapes import encoder_shapes, full_shapes
from fgmae_bench.config.run import Model
from fgmae_bench.models.build import build_backbone
from fgmae_bench.models.contracts import carried_contract

OUTPUTS = ("out.safetensors", "out.pth")


@pytest.fixture(scope="module")
def weights():
    generator = torch.Generator().manual_seed(3)
    return {name: torch.randn(shape, generator=generator) for name, shape in full_shapes(TINY, hog=True).items()}


def encoder(weights):
    return {name: weights[name] for name in encoder_shapes(TINY)}


def moco(weights):
    extra = {"module.queue": torch.zeros(8, 4), "module.queue_ptr": torch.zeros(1, dtype=torch.int64)}
    keys = renamed(encoder(weights), "module.encoder_k.")
    return renamed(encoder(weights) | {"fc.0.weight": torch.ones(4, 32)}, "module.encoder_q.") | keys | extra


# What is saved -> (layout, drop rules counted).
LAYOUTS = {
    "full": (lambda w: {"model": w, "optimizer": {}, "epoch": 99, "scaler": {}, "args": argparse.Namespace(a=1)}, "full", {"decoder": 20, "hog": 3}),
    "mae": (lambda w: {"model": {k: v for k, v in w.items() if not k.startswith("hog.")}, "args": argparse.Namespace()}, "mae", {"decoder": 20}),
    "encoder": (encoder, "encoder", {}),
    "dataparallel": (lambda w: {"state_dict": renamed(w, "module.")}, "full", {"decoder": 20, "hog": 3}),
    "moco": (lambda w: {"epoch": 1, "arch": "vit", "state_dict": moco(w), "optimizer": {}}, "moco", {"head": 1, "momentum_encoder": ENCODER, "queue": 2}),
    "dino": (lambda w: {"teacher": renamed(encoder(w), "module.backbone."), "student": renamed(encoder(w), "module.")}, "encoder", {}),
}  # fmt: skip


def convert(*flags, cwd):
    return call("weights.__main__", "convert", *flags, cwd=cwd)


@pytest.mark.parametrize("out", OUTPUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_keeps_its_features_and_counts_what_it_drops(tmp_path, weights, layout, out):
    make, name, dropped = LAYOUTS[layout]
    torch.save(make(weights), tmp_path / "in.pth")
    result = convert("in.pth", out, cwd=tmp_path)
    assert (result.code, result.err) == (0, "")
    assert f"{ENCODER} tensors" in result.out
    assert f"layout {name}" in result.out
    before, after = tiny_vit(), tiny_vit()
    assert load_backbone(before, tmp_path / "in.pth").dropped == dropped
    report = load_backbone(after, tmp_path / out)
    assert (report.used, report.dropped, report.missing) == (ENCODER, {}, 0)
    assert torch.equal(features(before), features(after))
    story = json.loads(read_state(tmp_path / out).metadata[KEY])
    assert (story["layout"], story["dropped"]) == (name, dropped)
    assert story["source_sha256"] == read_state(tmp_path / "in.pth").sha256


def test_outputs_open_with_other_tools(tmp_path, weights):
    torch.save({"model": weights}, tmp_path / "in.pth")
    for out in OUTPUTS:
        assert convert("in.pth", out, "--contract", "fgmae", cwd=tmp_path).code == 0
    by_library = load_file(tmp_path / "out.safetensors")
    by_torch = torch.load(tmp_path / "out.pth", weights_only=True)["model"]
    for name, tensor in encoder(weights).items():
        assert torch.equal(by_library[name], tensor)
        assert torch.equal(by_torch[name], tensor)
    with safe_open(tmp_path / "out.safetensors", "pt") as archive:
        assert archive.metadata()["format"] == "pt"


def test_the_same_input_gives_the_same_bytes(tmp_path, weights):
    torch.save({"model": weights}, tmp_path / "in.pth")
    for out in ("a.safetensors", "b.safetensors"):
        convert("in.pth", out, cwd=tmp_path)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def pickled(path, value):
    path.write_bytes(pickle.dumps(value, protocol=4))


def with_lists(weights):
    return arrays(weights) | {name: weights[name].tolist() for name in ("norm.weight", "norm.bias", "cls_token")}


BROKEN = {
    "numpy pickle": (lambda path, w: pickled(path, {"model": arrays(w), "__author__": "x"}), f"numpy array {ENCODER}"),
    "nested numpy": (lambda path, w: pickled(path, {"model": nested(arrays(w))}), f"numpy array {ENCODER}"),
    "prefixed numpy": (lambda path, w: pickled(path, {"state_dict": renamed(arrays(w), "module.backbone.")}), f"numpy array {ENCODER}"),
    "numpy in torch.save": (lambda path, w: torch.save({"model": arrays(w)}, path), f"numpy array {ENCODER}"),
    "lists": (lambda path, w: pickled(path, {"model": with_lists(w)}), f"list 3, numpy array {ENCODER - 3}"),
    "lists alone": (lambda path, w: pickled(path, {"model": {k: v.tolist() for k, v in w.items()}}), f"list {ENCODER}"),
    "a list of arrays": (
        lambda path, w: pickled(path, {"model": arrays(w) | {"norm.weight": [*arrays(w)["norm.weight"]]}}),
        f"list 1, numpy array {ENCODER - 1}",
    ),
    "double": (lambda path, w: torch.save({"model": {k: v.double() for k, v in w.items()}}, path), f"float64 {ENCODER}"),
}  # fmt: skip


@pytest.mark.parametrize("out", OUTPUTS)
@pytest.mark.parametrize("kind", BROKEN)
def test_repair_mends_and_says_so(tmp_path, weights, kind, out):
    write, repaired = BROKEN[kind]
    write(tmp_path / "in.bin", weights)
    result = convert("in.bin", out, "--repair", cwd=tmp_path)
    assert result.code == 0, result.err
    assert f"repaired: {repaired}\n" in result.out
    vit = tiny_vit()
    assert load_backbone(vit, tmp_path / out).used == ENCODER
    assert torch.equal(features(vit), expected_features(weights))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_repaired_to_single(tmp_path, weights, dtype):
    half = {name: tensor.to(dtype) for name, tensor in weights.items()}
    torch.save({"model": half}, tmp_path / "in.pth")
    assert f"1 x {ENCODER}" not in convert("in.pth", "out.pth", "--repair", cwd=tmp_path).err
    state = read_state(tmp_path / "out.pth")
    assert {tensor.dtype for tensor in state.tensors.values()} == {torch.float32}
    assert all(torch.equal(state.tensors[name], half[name].float()) for name in state.tensors)


def test_numbers_become_tensors(tmp_path, weights):
    pickled(tmp_path / "in.pkl", {"model": encoder(weights) | {"scale": 0.5, "groups": 7, "name": "x", "flag": True}})
    result = convert("in.pkl", "out.pth", "--repair", cwd=tmp_path)
    assert "repaired: number 2" in result.out
    assert "no_tensor 2" in result.out
    tensors = read_state(tmp_path / "out.pth").tensors
    assert (tensors["scale"].item(), tensors["scale"].dtype, tensors["groups"].item()) == (0.5, torch.float32, 7)


def test_without_repair_nothing_is_repaired(tmp_path, weights):
    pickled(tmp_path / "in.pkl", {"model": arrays(weights)})
    line = refused("in.pkl", "out.pth", cwd=tmp_path, run=convert)
    assert line.endswith(f"in.pkl needs repair: {ENCODER} x numpy array; convert it with --repair")


HELD = {
    "lists": (
        lambda w: {"model": w | {k: w[k].tolist() for k in ("norm.weight", "norm.bias")}},
        "2 x list (norm.weight, norm.bias)",
    ),
    "a number": (lambda w: {"model": w | {"gamma": 0.5}}, "1 x number (gamma)"),
    "the first layer": (
        lambda w: {
            "state_dict": renamed(w | {"patch_embed.proj.weight": w["patch_embed.proj.weight"].tolist()}, "module.")
        },
        "1 x list (module.patch_embed.proj.weight)",
    ),
    "all, beside an optimizer": (
        lambda w: {
            "model": {k: v.tolist() for k, v in w.items()},
            "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}},
        },
        f"{ENCODER} x list (model.cls_token, ",
    ),
}


@pytest.mark.parametrize("kind", HELD)
def test_without_repair_lists_and_numbers_are_named_not_dropped(tmp_path, weights, kind):
    make, found = HELD[kind]
    torch.save(make(weights), tmp_path / "in.pth")
    line = refused("in.pth", "out.pth", cwd=tmp_path, run=convert)
    assert f"in.pth needs repair: {found}" in line
    assert line.endswith("; convert it with --repair")
    assert convert("in.pth", "out.pth", "--repair", cwd=tmp_path).code == 0
    assert load_backbone(tiny_vit(), tmp_path / "out.pth").used == ENCODER if kind != "a number" else True


def test_lists_alone_are_led_to_repair(tmp_path, weights):
    pickled(tmp_path / "in.pkl", {"model": {name: tensor.tolist() for name, tensor in encoder(weights).items()}})
    line = refused("in.pkl", "out.pth", cwd=tmp_path, run=convert)
    assert (
        f"in.pkl holds no tensors, but {ENCODER} lists and numbers; where these are weights, make tensors of them with"
        in line
    )


@pytest.mark.parametrize("flags", [(), ("--repair",)])
def test_what_is_no_weight_is_dropped_with_and_without_repair(tmp_path, weights, flags):
    facts = {
        "epoch": 99,
        "best_acc1": 0.5,
        "global_step": 7,
        "name": "x",
        "flag": True,
        "nothing": None,
        "names": ["a"],
        "args": argparse.Namespace(lr=1),
    }
    beside = {
        "optimizer": {"state": {0: {"step": 5, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]},
        "scaler": {"scale": 65536.0},
    }
    torch.save({**weights, **facts, **beside, "decoder_scales": [1.0, 2.0]}, tmp_path / "in.pth")
    result = convert("in.pth", "out.pth", *flags, cwd=tmp_path)
    assert (result.code, result.err) == (0, "")
    assert "repaired: nothing" in result.out
    assert list(read_state(tmp_path / "out.pth").tensors) == list(encoder(weights))
    assert load_backbone(tiny_vit(), tmp_path / "out.pth").used == ENCODER


def test_lists_that_hold_each_other_take_no_time_and_no_memory(tmp_path, weights):
    doubled = [0.5, 0.5]
    for _ in range(40):
        doubled = [doubled, doubled]
    ring = [1.0]
    ring.append(ring)
    many = [0.5] * 1000
    for held in ({"a": doubled}, {str(k): many for k in range(1000)}):
        pickled(tmp_path / "in.pkl", {"model": encoder(weights) | held})
        assert "needs repair" in convert("in.pkl", "out.pth", cwd=tmp_path).err
        assert "claim more values than the file holds" in convert("in.pkl", "out.pth", "--repair", cwd=tmp_path).err
    pickled(tmp_path / "in.pkl", {"model": encoder(weights) | {"a": ring}})
    assert "no_tensor 1" in convert("in.pkl", "out.pth", cwd=tmp_path).out


# --- contracts travel with the file


def test_the_contract_of_a_published_name_is_embedded_and_used(tmp_path, weights):
    torch.save({"model": weights}, tmp_path / "B2_rn50_softcon.pth")
    assert (
        "contract: ssl4eo_8bit, of softcon in the manifest"
        in convert("B2_rn50_softcon.pth", "out.pth", cwd=tmp_path).out
    )
    found = carried_contract(read_state(tmp_path / "out.pth"))
    assert found == WEIGHTS["softcon"]["resnet50"].contract
    assert found is not None
    assert found.normalizer == "eight_bit"  # no quantile clip: not FGMAE's


@pytest.mark.parametrize("out", OUTPUTS)
def test_a_run_takes_the_contract_that_the_file_carries(tmp_path, out, caplog):
    vit = build_backbone(Model(model="test_vit", weights="random", input_size=32), 0).module.vit
    torch.save(vit.state_dict(), tmp_path / "in.pth")
    convert("in.pth", out, "--contract", "copernicus_fm", cwd=tmp_path)
    backbone = build_backbone(Model(model="test_vit", weights=str(tmp_path / out), input_size=32), 0)
    assert (backbone.contract.normalizer, backbone.contract.mean[0]) == ("zscore", -12.54847273)
    assert "contract_mismatch" not in [note["code"] for note in backbone.notes]
    other = build_backbone(Model(model="test_vit", weights=str(tmp_path / out), input_size=32, normalizer="fgmae"), 0)
    assert [note["text"] for note in other.notes if note["code"] == "contract_mismatch"] == [
        f"the input is normalised by fgmae, the weights {tmp_path / out} were trained on zscore"
    ]
    assert "expect worse features" in caplog.text


def test_an_unknown_contract_is_said(tmp_path, weights):
    torch.save(weights, tmp_path / "in.pth")
    assert "contract: not known" in convert("in.pth", "out.pth", cwd=tmp_path).out
    assert carried_contract(read_state(tmp_path / "out.pth")) is None


# --- refusals

REFUSALS = {
    "an output that exists": (("in.pth", "there.pth"), "there.pth exists; remove it"),
    "another ending": (
        ("in.pth", "out.bin"),
        "out.bin ends in '.bin'; choose a name that ends in .safetensors or .pth",
    ),
    "an unknown contract": (
        ("in.pth", "out.pth", "--contract", "fgmea"),
        "unknown contract 'fgmea'; did you mean 'fgmae'?",
    ),
    "an absent input": (("absent.pth", "out.pth"), "absent.pth is not there"),
    "a text": (("there.pth", "out.pth"), "there.pth is a text file"),
    "code": (("evil.pth", "out.pth"), "evil.pth is not read: it names"),
    "unknown keys": (("odd.pth", "out.pth"), "1 keys are neither of the backbone nor of a known head: odd"),
    "heads alone": (("head.pth", "out.pth"), "holds no tensors of a backbone"),
    "no known layout": (
        ("foreign.pth", "out.pth"),
        "foreign.pth has no known layout: none of its 1 keys is of a known backbone (a.b); save",
    ),
    "no known layout, repaired": (("foreign.pth", "out.pth", "--repair"), "foreign.pth has no known layout"),
    "NaN": (("nan.pth", "out.pth"), "nan.pth: norm.bias holds 3 NaN, 1 infinite; its training has diverged"),
    "NaN, repaired": (("nan.pth", "out.safetensors", "--repair"), "nan.pth: norm.bias holds 3 NaN, 1 infinite; its"),
    "NaN in half precision": (
        ("half.pth", "out.pth", "--repair"),
        "half.pth: norm.weight holds 32 infinite, and 1 more tensors hold such",
    ),
    "overflow": (("double.pth", "out.pth", "--repair"), "double.pth: norm.bias holds 32 infinite;"),
}


class Evil:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize("what", REFUSALS)
def test_refusals_leave_nothing(tmp_path, weights, what):
    flags, line = REFUSALS[what]
    torch.save(weights, tmp_path / "in.pth")
    torch.save({"model": renamed(weights, "module.") | {"odd": torch.ones(1)}}, tmp_path / "odd.pth")
    torch.save({"head.weight": torch.ones(2, 2)}, tmp_path / "head.pth")
    torch.save({"a.b": torch.ones(2)}, tmp_path / "foreign.pth")
    bad = weights["norm.bias"].clone()
    bad[:3], bad[5] = torch.nan, -torch.inf
    torch.save(weights | {"norm.bias": bad}, tmp_path / "nan.pth")
    half = {"norm.weight": torch.full((32,), torch.inf).half(), "norm.bias": bad.half()}
    torch.save(weights | half, tmp_path / "half.pth")
    torch.save(weights | {"norm.bias": torch.full((32,), 1e300, dtype=torch.float64)}, tmp_path / "double.pth")
    pickled(tmp_path / "evil.pth", {"model": Evil()})
    (tmp_path / "there.pth").write_text("text")
    assert line in refused(*flags, cwd=tmp_path, run=convert)


@pytest.mark.parametrize("out", OUTPUTS)
def test_a_full_disk_leaves_no_part_of_a_file(tmp_path, weights, monkeypatch, out):
    def fail(path, *_):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    torch.save(weights, tmp_path / "in.pth")
    monkeypatch.setitem(convert_room.WRITERS, f".{out.split('.')[1]}", fail)
    before = listing(tmp_path)
    assert "no space left while writing" in convert("in.pth", out, cwd=tmp_path).err
    assert listing(tmp_path) == before


def test_nan_in_what_is_dropped_does_not_matter(tmp_path, weights):
    torch.save(weights | {"mask_token": torch.full((4,), torch.nan)}, tmp_path / "in.pth")
    assert convert("in.pth", "out.pth", cwd=tmp_path).code == 0


@pytest.mark.parametrize("model", ["test_convnext", "test_efficientnet", "test_resnet", "dla46_c", "inception_v3"])
def test_backbones_of_timm_have_a_known_layout(tmp_path, model):
    torch.save(timm.create_model(model, in_chans=2, num_classes=0).state_dict(), tmp_path / "in.pth")
    result = convert("in.pth", "out.pth", cwd=tmp_path)
    assert (result.code, result.err) == (0, "")


def test_what_was_written_wrongly_does_not_take_the_name(tmp_path, weights, monkeypatch):
    def forget(path, tensors, metadata, repair):
        torch.save({"model": dict(list(tensors.items())[:-1])}, path)

    def flip(path, tensors, metadata, repair):
        torch.save({"model": tensors | {"norm.bias": tensors["norm.bias"] + 1}}, path)

    torch.save(weights, tmp_path / "in.pth")
    for writer in (forget, flip):
        monkeypatch.setitem(convert_room.WRITERS, ".pth", writer)
        assert "out.pth: what was written is not what was read" in refused(
            "in.pth", "out.pth", cwd=tmp_path, run=convert
        )


def test_odd_numbers_and_views_are_kept_bit_by_bit(tmp_path):
    base = torch.randn(6, 4)
    odd = {
        "patch_embed.proj.weight": base.t(),
        "norm.bias": torch.tensor([1e-45, -0.0]),
        "cls_token": base[2:3],
        "empty": torch.zeros(0),
    }
    torch.save(odd, tmp_path / "in.pth")
    for out in OUTPUTS:
        assert convert("in.pth", out, cwd=tmp_path).code == 0
        got = read_state(tmp_path / out).tensors
        assert np.array_equal(got["norm.bias"].numpy().view(np.int32), odd["norm.bias"].numpy().view(np.int32))
        assert torch.equal(got["patch_embed.proj.weight"], base.t())
    assert (tmp_path / "out.pth").stat().st_size < 4000


def test_the_loader_that_wraps_a_pickle_twice_is_not_ours(tmp_path, weights):
    """A .pkl without `__author__`, which Detectron2 takes for a Caffe2 file: as a .pth any loader of plain weights
    opens it.
    """
    pickled(tmp_path / "in.pkl", {"model": arrays(weights)})
    convert("in.pkl", "out.pth", "--repair", cwd=tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        content = torch.load(tmp_path / "out.pth", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in content["model"].values())
    assert isinstance(nn.Module.load_state_dict(tiny_vit(), content["model"]), tuple)
