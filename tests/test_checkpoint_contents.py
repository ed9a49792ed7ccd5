"""What a checkpoint holds besides one backbone's tensors: averages, siblings, wrappers of modules, other objects, shards."""

import collections
import datetime
import enum
import hashlib
import json
import sys
import types
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_checkpoints import (
    DROPPED,
    ENCODER,
    TINY,
    expected_features,
    failure,
    features,
    legacy,
    nested,
    pickled,
    renamed,
    tiny_vit,
)

from fgmae_bench.checkpoints.convert import backbone_of
from fgmae_bench.checkpoints.load import load_backbone
from fgmae_bench.checkpoints.reader import read_state
from fgmae_bench.checkpoints.shapes import encoder_shapes

pytest_plugins = ("tiny_checkpoints",)


# --- averages, wrappers of modules, siblings, objects that are not tensors, several files


EMA = ("state_dict_ema", "model_ema", "ema", "ema_state_dict")


@pytest.mark.parametrize("ema", EMA)
def test_an_average_of_the_weights_is_read_where_it_is_alone_and_named_where_it_is_not(tmp_path, weights, ema):
    """Trained weights first: what a file calls by the plain name is what was read before averages were known."""
    average = {name: tensor + 1 for name, tensor in weights.items()}
    torch.save({ema: renamed(average, "module."), "epoch": 3}, tmp_path / "alone.pth")
    vit = tiny_vit()
    report = load_backbone(vit, tmp_path / "alone.pth")
    assert report.notes == (f"'{ema}' is read: averaged weights, the file has no others",)
    assert torch.equal(features(vit), expected_features(average))
    for plain in ("state_dict", "model"):
        torch.save({ema: average, plain: weights}, tmp_path / "both.pth")
        report = load_backbone(vit, tmp_path / "both.pth")
        assert report.notes == (f"'{plain}' is read, not {ema}",)
        assert torch.equal(features(vit), expected_features(weights))


@pytest.mark.parametrize(
    "prefix",
    [
        "_orig_mod.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "_fsdp_wrapped_module.",
        "model._orig_mod.",
        "module.backbone._orig_mod.",
    ],
)
def test_wrappers_of_modules_are_taken_out_of_names(tmp_path, weights, prefix):
    torch.save({"model": renamed(weights, prefix)}, tmp_path / "w.pth")
    vit = tiny_vit()
    report = load_backbone(vit, tmp_path / "w.pth")
    part = next(part for part in prefix.split(".") if part.startswith("_"))
    assert report.notes == (f"{part}. is taken out of {len(weights)} names",)
    assert (report.used, report.dropped) == (ENCODER, DROPPED)
    assert torch.equal(features(vit), expected_features(weights))


def test_wrappers_of_blocks_are_taken_out_of_the_middle_of_names(tmp_path, weights):
    wrapped = {
        name.replace("blocks.0.", "blocks.0._fsdp_wrapped_module._checkpoint_wrapped_module."): tensor
        for name, tensor in weights.items()
    }
    torch.save(wrapped, tmp_path / "w.pth")
    vit = tiny_vit()
    assert load_backbone(vit, tmp_path / "w.pth").notes == (
        "_checkpoint_wrapped_module. is taken out of 24 names",
        "_fsdp_wrapped_module. is taken out of 24 names",
    )
    assert torch.equal(features(vit), expected_features(weights))
    torch.save(weights | {"_orig_mod.norm.bias": torch.zeros(32)}, tmp_path / "twice.pth")
    assert "it holds norm.bias twice" in failure(tmp_path / "twice.pth")


def test_the_online_network_is_read_not_the_target(tmp_path, weights):
    """BYOL below a wrapper, by flat names and as nested mappings."""
    encoder = {name: weights[name] for name in encoder_shapes(TINY)}
    target = {name: tensor + 1 for name, tensor in encoder.items()}
    flat = renamed(encoder, "online_network.") | renamed(target, "target_network.")
    flat |= {"online_predictor.net.0.weight": torch.zeros(2, 2), "online_projector.0.bias": torch.zeros(2)}
    for held in (flat, nested(flat)):
        torch.save({"net": held}, tmp_path / "w.pth")
        vit = tiny_vit()
        report = load_backbone(vit, tmp_path / "w.pth")
        assert (report.used, report.dropped) == (ENCODER, {"other_network": ENCODER, "projector": 2})
        assert torch.equal(features(vit), expected_features(weights))


@pytest.mark.parametrize("prefix", ["teacher.backbone.", "student.backbone."])
def test_of_two_networks_in_one_mapping_the_teacher_is_read(tmp_path, weights, prefix):
    encoder = {name: weights[name] for name in encoder_shapes(TINY)}
    other = "student.backbone." if prefix.startswith("teacher") else "other."
    state = renamed(encoder, prefix) | {f"{prefix.split('.')[0]}.dino_head.mlp.0.weight": torch.zeros(2, 2)}
    if other != "other.":
        state |= renamed({name: tensor + 1 for name, tensor in encoder.items()}, other)
    torch.save({"model": state}, tmp_path / "w.pth")
    vit = tiny_vit()
    report = load_backbone(vit, tmp_path / "w.pth")
    assert sum(report.dropped.values()) == len(state) - ENCODER
    assert torch.equal(features(vit), expected_features(weights))


SIBLINGS = {
    "decode_head.conv_seg.weight": "head",
    "auxiliary_head.convs.0.conv.weight": "head",
    "neck.lateral_convs.0.weight": "head",
    "segmentation_head.0.weight": "head",
    "decoder.blocks.0.weight": "decoder",
    "criterion.weight": "criterion",
    "loss_fn.weight": "criterion",
    "train_metrics.MulticlassAccuracy.tp": "metrics",
    "val_metrics.confmat": "metrics",
    "test_iou.confmat": "metrics",
    "model.decode_head.conv_seg.bias": "head",
    "ema_model.norm.bias": "other_network",
}


@pytest.mark.parametrize("prefix", ["backbone.", "model.backbone.", "model.encoder."])
def test_siblings_of_a_prefixed_backbone_are_dropped_by_rule(tmp_path, weights, prefix):
    encoder = {name: weights[name] for name in encoder_shapes(TINY)}
    torch.save({"state_dict": renamed(encoder, prefix) | dict.fromkeys(SIBLINGS, torch.zeros(2))}, tmp_path / "w.pth")
    vit = tiny_vit()
    report = load_backbone(vit, tmp_path / "w.pth")
    assert (report.used, report.dropped) == (ENCODER, dict(Counter(SIBLINGS.values())))
    assert torch.equal(features(vit), expected_features(weights))
    tensors, dropped = backbone_of(read_state(tmp_path / "w.pth"))
    assert (len(tensors), dropped) == (ENCODER, report.dropped)


@pytest.mark.parametrize("name", ["conv_head.weight", "norm.weight", "trunk.blocks.0.weight", "blocks.0.bias"])
def test_what_is_no_known_sibling_still_stops_the_load(tmp_path, weights, name):
    """Beside a bare backbone `conv_head` could be the model's own; beside a prefix nothing that could be a backbone is
    dropped.
    """
    for prefix in ("", "backbone."):
        if (name, prefix) in (("conv_head.weight", "backbone."), ("norm.weight", "")):
            continue
        torch.save(renamed(weights, prefix) | {name: torch.zeros(2)}, tmp_path / "w.pth")
        assert f"1 keys that the model does not know: {name}" in failure(tmp_path / "w.pth")


@pytest.fixture
def stranger(monkeypatch):
    """Classes of a package that is there for the writer only, pickled as mmengine's HistoryBuffer is."""
    module = types.ModuleType("stranger.history")

    class HistoryBuffer:
        def __init__(self, values):
            self.log_history = np.array(values)
            self.methods = {"mean": HistoryBuffer.mean}

        def mean(self):
            raise AssertionError("called")

        def __setstate__(self, state):
            raise AssertionError("filled")

    class Level(enum.Enum):
        HIGH = 1

    class Settings(dict):
        pass

    for kind in (HistoryBuffer, Level, Settings):
        kind.__module__, kind.__qualname__ = "stranger.history", kind.__name__
        setattr(module, kind.__name__, kind)
    HistoryBuffer.mean.__qualname__ = "HistoryBuffer.mean"
    HistoryBuffer.mean.__module__ = "stranger.history"
    monkeypatch.setitem(sys.modules, "stranger", types.ModuleType("stranger"))
    monkeypatch.setitem(sys.modules, "stranger.history", module)
    return module


CONTAINERS = {
    "zip": torch.save,
    "zip, protocol 4": lambda value, path: torch.save(value, path, pickle_protocol=4),
    "legacy": lambda value, path: legacy(path, value),
    "pickle": lambda value, path: pickled(path, value),
    "pickle, protocol 2": lambda value, path: pickled(path, value, 2),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_objects_that_are_no_tensors_are_skipped_and_named(tmp_path, weights, stranger, monkeypatch, container):
    """What mmengine, Lightning and argparse leave beside the weights; nothing of it is imported or called."""
    content = {
        "state_dict": renamed(weights, "backbone.") | {"backbone.extra": stranger.HistoryBuffer([])},
        "message_hub": {"log_scalars": {"loss": stranger.HistoryBuffer([1.0, 0.5])}, "resumed_keys": {}},
        "hyper_parameters": stranger.Settings(level=stranger.Level.HIGH, root=Path("a")),
        "meta": collections.defaultdict(list, {"classes": [1], "when": datetime.date(2020, 1, 1), "tags": {"a"}}),
    }
    CONTAINERS[container](content, tmp_path / "w.pth")
    monkeypatch.delitem(sys.modules, "stranger.history")
    monkeypatch.delitem(sys.modules, "stranger")
    state = read_state(tmp_path / "w.pth")
    assert "stranger" not in sys.modules
    (note,) = state.notes
    assert note.startswith("objects that are not tensors are skipped: ")
    assert "stranger.history.HistoryBuffer" in note
    assert state.plain == {"backbone.extra": "an object that is not read"}
    assert state.others["hyper_parameters"] == "an object that is not read"
    vit = tiny_vit()
    report = load_backbone(vit, tmp_path / "w.pth")
    assert (report.used, report.dropped) == (ENCODER, DROPPED | {"no_tensor": 1})
    assert report.notes == (note,)
    assert torch.equal(features(vit), expected_features(weights))


@pytest.mark.parametrize("container", CONTAINERS)
def test_an_object_in_place_of_a_weight_or_of_everything_is_refused(tmp_path, weights, stranger, container):
    odd = stranger.HistoryBuffer([1.0])
    CONTAINERS[container](dict(weights) | {"norm.bias": odd}, tmp_path / "weight.pth")
    assert "holds 1 keys of the model not as tensors: norm.bias" in failure(tmp_path / "weight.pth")
    CONTAINERS[container](odd, tmp_path / "all.pth")
    assert "it holds an object that is not read where a mapping" in failure(tmp_path / "all.pth")


def test_an_ordered_dict_of_python_2_is_a_state_dict(tmp_path, weights):
    """Its pickle names the pairs as an argument."""

    class Ordered(collections.OrderedDict):
        def __reduce__(self):
            return collections.OrderedDict, ([list(pair) for pair in self.items()],)

    legacy(tmp_path / "w.pth", Ordered(weights))
    vit = tiny_vit()
    assert load_backbone(vit, tmp_path / "w.pth").used == ENCODER
    assert torch.equal(features(vit), expected_features(weights))


# --- safetensors in several files


def sharded(folder, weights, **changes):
    """Two files and their index, as huggingface_hub writes them; changes to the index by name."""
    names = list(weights)
    half = len(names) // 2
    place = {}
    for number, part in enumerate((names[:half], names[half:]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
        place |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": place | changes}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    return folder / "model.safetensors.index.json"


def test_safetensors_in_several_files_are_read_by_their_index(tmp_path, weights):
    path = sharded(tmp_path, weights)
    vit = tiny_vit()
    report = load_backbone(vit, path)
    state = read_state(path)
    assert (report.used, report.dropped) == (ENCODER, DROPPED)
    assert list(state.tensors) == list(weights)
    assert state.bytes == sum(part.stat().st_size for part in tmp_path.glob("*.safetensors"))
    assert torch.equal(features(vit), expected_features(weights))
    lines = "".join(
        hashlib.sha256(part.read_bytes()).hexdigest() + "\n" for part in sorted(tmp_path.glob("*.safetensors"))
    )
    assert state.sha256 == hashlib.sha256(lines.encode()).hexdigest()
    assert "it is one file of several: give their index" in failure(tmp_path / "model-00001-of-00002.safetensors")


SHARDS = {
    "missing part": ({"cls_token": "model-00003-of-00002.safetensors"}, "model-00003-of-00002.safetensors is not in"),
    "another folder": ({"cls_token": "../model.safetensors"}, "its index names ../model.safetensors, which is not"),
    "absolute path": ({"cls_token": "/etc/passwd"}, "its index names /etc/passwd, which is not"),
    "other format": ({"cls_token": "model.pth"}, "its index names model.pth, which is not"),
    "number": ({"cls_token": 1}, "its index names 1, which is not"),
    "name that is not there": ({"odd": "model-00002-of-00002.safetensors"}, "differ in odd"),
    "wrong part": ({"cls_token": "model-00002-of-00002.safetensors"}, "differ in cls_token"),
    "escape codes": ({"cls_token": "\x1b[2J.safetensors"}, "its index names ?[2J.safetensors, which is not"),
}


@pytest.mark.parametrize("change", SHARDS)
def test_an_index_that_is_not_of_its_files_is_refused(tmp_path, weights, change):
    changes, cause = SHARDS[change]
    assert cause in failure(sharded(tmp_path, weights, **changes))


@pytest.mark.parametrize(
    "text", ["{}", '{"weight_map": []}', '{"weight_map": {}}', '{"a":' * 100_000, "{", "{" + "9" * 99]
)
def test_an_index_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "m.safetensors.index.json").write_text(text)
    failure(tmp_path / "m.safetensors.index.json")
