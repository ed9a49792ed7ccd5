"""From Python: every protocol on a module of the user's gives the record that the command gives, and leaves the module
as it was.
"""

import copy
import os

import pytest
import timm
import torch
from commands import FOLDERS, PLACES, REPOSITORY, call, only_record, shared_world
from segment_world import SIDE
from torch import nn

import fgmae_bench
from fgmae_bench.config.names import FITTED_HEADS, HEADS
from fgmae_bench.config.recipes import PROTOCOLS
from fgmae_bench.errors import BenchError

pytest_plugins = ("segment_world",)

HERE = {**PLACES, "device": "cpu", "amp": "off"}
SHORT = {
    "linear_probe": {"epochs": 1, "batch_size": 16, "features": "cached"},
    "logistic_regression": {"features": "cached"},
    "knn": {"features": "cached"},
    "finetune": {"max_steps": 2, "eval_every": 2, "batch_size": 8, "num_workers": 0},
    "frozen_upernet": {"max_steps": 2, "warmup_steps": 0, "batch_size": 4, "fpn_dim": 8, "panels": 0},
    "frozen_linear": {"max_steps": 2, "warmup_steps": 0, "batch_size": 4, "panels": 0},
    "segmentation_finetune": {
        "max_steps": 2,
        "warmup_steps": 0,
        "batch_size": 4,
        "fpn_dim": 8,
        "panels": 0,
        "layer_decay": 1.0,
    },
}


def mapping():
    """(B, 2, S, S) to a map (B, 8, S/8, S/8)."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 8, 8, 8), nn.GELU())


def remembering():
    """A model that keeps a tensor of a forward pass, which torch does not copy."""
    model = mapping()
    model.kept = model[0].weight * 2
    return model


@pytest.fixture
def desk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_other_protocols_say_what_they_are_for(tiles, desk):
    others = set(PROTOCOLS) - set(SHORT)
    heads = {f"frozen_{name}" for name in HEADS} - set(SHORT)  # each in the tests of heads
    assert others == {"ridge", "inference", "zero_shot", *heads, *FITTED_HEADS}
    for protocol in sorted(FITTED_HEADS):
        with pytest.raises(BenchError, match="looks at backscatter alone, not at mine"):
            fgmae_bench.evaluate(mapping(), "dfc2020", protocol, name="mine", data_path=tiles, **HERE)
    with pytest.raises(BenchError, match="--probe ridge on a single_label dataset"):
        fgmae_bench.evaluate(mapping(), "eurosat", "ridge", name="mine", data_path=shared_world(5), **HERE)


@pytest.mark.parametrize("protocol", SHORT)
def test_every_protocol_takes_a_module(protocol, tiles, desk):
    segmentation = PROTOCOLS[protocol][0] == "segment"
    dataset, data = ("dfc2020", tiles) if segmentation else ("eurosat", shared_world(5))
    size = {} if segmentation else {"input_size": 32}
    model = mapping().train()
    before, modes = copy.deepcopy(model.state_dict()), [part.training for part in model.modules()]
    record = fgmae_bench.evaluate(
        model, dataset, protocol, name="mine", data_path=data, **size, **SHORT[protocol], **HERE
    )
    assert record["protocol"] == protocol
    assert record["status"] == "done"
    assert record["model"]["name"] == "mine"
    assert record["model"]["weights"]["source"] == "module"
    assert record["config"]["model"]["input_size"] == (SIDE if segmentation else 32)
    assert record == only_record(desk / "results")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    if PROTOCOLS[protocol][0] != "linear":
        assert [part.training for part in model.modules()] == modes
        assert all(parameter.requires_grad for parameter in model.parameters())
    again = fgmae_bench.evaluate(
        mapping(), dataset, protocol, name="mine", data_path=data, **size, **SHORT[protocol], **HERE
    )
    assert again == record, "the same module is the same run"


def test_fine_tuning_moves_the_copy(desk):
    record = fgmae_bench.evaluate(
        mapping(),
        "eurosat",
        "finetune",
        name="mine",
        data_path=shared_world(5),
        input_size=32,
        **SHORT["finetune"],
        **HERE,
    )
    trained = torch.load(next(desk.glob("out/checkpoint-last.pth")), weights_only=True)["model"]
    (name,) = (name for name in trained if name.endswith("0.weight"))
    assert not torch.equal(trained[name], mapping()[0].weight)
    assert record["model"]["params_trainable"] == record["model"]["params_total"]


def factory():
    """What `--model test_api:factory` builds on the command line."""
    return mapping()


@pytest.mark.parametrize("protocol", ["finetune", "frozen_upernet"])
def test_the_scores_are_those_of_the_command(protocol, tiles, desk, monkeypatch):
    monkeypatch.syspath_prepend(os.path.dirname(__file__))
    module, stands_for = PROTOCOLS[protocol]
    dataset, data = ("dfc2020", tiles) if module == "segment" else ("eurosat", shared_world(5))
    size = {"input_size": SIDE if module == "segment" else 32}
    flags = {**SHORT[protocol], **size, **{key: value for key, value in HERE.items() if f"--{key}" not in FOLDERS}}
    record = fgmae_bench.evaluate(mapping(), dataset, protocol, name="mine", data_path=data, **{**flags, **HERE})
    typed = [part for key, value in flags.items() for part in (f"--{key}", value)]
    switches = [f"--{key}" for key, value in stands_for.items() if value is True]
    done = call(
        module,
        "--dataset",
        dataset,
        "--data_path",
        data,
        "--model",
        "test_api:factory",
        *typed,
        *switches,
        "--results_dir",
        "theirs",
        cwd=desk,
    )
    assert done.code == 0, done.err
    assert only_record(desk / "theirs")["metrics"]["test"] == record["metrics"]["test"]


def test_a_vit_of_timm_gives_its_blocks_to_a_decoder(tiles, desk):
    vit = timm.create_model("test_vit", in_chans=2, img_size=SIDE, num_classes=0)
    flags = SHORT["segmentation_finetune"] | {"layer_decay": 0.75}
    record = fgmae_bench.evaluate(vit, "dfc2020", "segmentation_finetune", name="vit", data_path=tiles, **flags, **HERE)
    assert record["status"] == "done"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"protocol": "finetuning"}, "unknown protocol 'finetuning'.*finetune"),
        ({"eval": True}, r"evaluate\(eval=True\); score a checkpoint with python -m fgmae_bench.finetune --eval"),
        ({"lr": [0.1, 0.2]}, "evaluate runs one setting; give one lr"),
        ({"laer_decay": 0.5}, "finetune: unknown flag 'laer_decay'; did you mean 'layer_decay'"),
        ({"protocol": "frozen_upernet"}, "is a single_label dataset; use fgmae_bench.linear or fgmae_bench.finetune"),
        ({"model": "vit_tiny_patch16_224"}, "name='mine' for the model vit_tiny_patch16_224; leave it out"),
        ({"model": None}, "the model is of type NoneType"),
        ({"weights": "fgmae"}, r"evaluate\(weights=...\) with protocol 'finetune'; leave it out"),
        ({"protocol": "linear_probe", "probe": "knn"}, r"evaluate\(probe=...\) with protocol 'linear_probe'"),
        ({"protocol": "frozen_linear", "head": "upernet"}, r"evaluate\(head=...\) with"),
        ({"protocol": "segmentation_finetune", "freeze_backbone": True}, r"evaluate\(freeze_backbone=...\) with"),
        ({"model": remembering()}, r"Sequential cannot be copied \(.*\); detach the tensors"),
        ({"model": nn.Identity(), "batch_size": 8}, "no parameters"),
    ],
)
def test_bad_input_is_one_line(change, line, desk):
    given = {
        "model": mapping(),
        "dataset": "eurosat",
        "protocol": "finetune",
        "name": "mine",
        "data_path": shared_world(5),
        "input_size": 32,
    }
    with pytest.raises(BenchError, match=line):
        fgmae_bench.evaluate(**{**given, **HERE, **change})


def test_a_module_without_a_map_cannot_be_segmented(tiles, desk):
    flat = nn.Sequential(nn.Flatten(), nn.LazyLinear(4))
    flat(torch.zeros(1, 2, SIDE, SIDE))
    with pytest.raises(BenchError, match=r"returned a tensor of shape \(1, 4\); return a \(B, D, h, w\) map"):
        fgmae_bench.evaluate(
            flat, "dfc2020", "frozen_upernet", name="flat", data_path=tiles, **SHORT["frozen_upernet"], **HERE
        )


def test_the_readme_names_every_protocol():
    for name in ("README.md", "README.zh.md"):
        text = (REPOSITORY / name).read_text()
        assert "`frozen_<head>`" in text
        assert all(f"`{name}`" in text for name in PROTOCOLS if name.removeprefix("frozen_") not in HEADS)


def test_a_vit_of_another_size_is_told_with_the_size_it_was_built_at(tiles, desk):
    vit = timm.create_model("test_vit", in_chans=2, img_size=32, num_classes=0)
    flags = {"name": "vit", "data_path": tiles, **SHORT["frozen_upernet"], **HERE}
    with pytest.raises(BenchError, match="64x64 px for a backbone built at 32x32; give input_size 32"):
        fgmae_bench.evaluate(vit, "dfc2020", "frozen_upernet", **flags)
    assert fgmae_bench.evaluate(vit, "dfc2020", "frozen_upernet", input_size=32, **flags)["status"] == "done"
