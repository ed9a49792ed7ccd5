"""`--weights imagenet`: timm's own weights out of a hub's cache, equal to timm's own model, owned and refused."""

import hashlib

import pytest
import timm
import torch
from commands import FOLDERS, PLACES, call, codes, only_record, said, shared_world
from safetensors.torch import save_file

import fgmae_bench
from fgmae_bench.config.experiments import Experiment, Layout, PlannedRun, matches
from fgmae_bench.config.run import Model
from fgmae_bench.errors import BenchError
from fgmae_bench.models import timm_weights
from fgmae_bench.models.build import build_backbone
from fgmae_bench.models.contracts import resolve_contract

SHORT = ("--dataset", "eurosat", "--features", "cached", "--epochs", "1", "--batch_size", "16", *FOLDERS)
TAGS = {"test_vit": "test_vit.r160_in1k", "test_resnet": "test_resnet.r160_in1k"}


def trained(name, seed):
    """A whole model of three channels with its 1,000 classes, every tensor away from its initialisation."""
    torch.manual_seed(seed)
    model = timm.create_model(name, num_classes=1000)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache as huggingface_hub leaves it, which is all that can be reached."""
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for seed, (name, tag) in enumerate(TAGS.items()):
        put(tmp_path / "hub", tag, trained(name, seed).state_dict())
    return tmp_path / "hub"


def put(cache, tag, state):
    revision = hashlib.sha1(tag.encode()).hexdigest()
    folder = cache / f"models--timm--{tag}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(revision)
    (folder / "snapshots" / revision).mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "snapshots" / revision / "model.safetensors")


@pytest.mark.parametrize(("name", "pooled"), [("test_vit", "token"), ("test_resnet", "avg")])
def test_features_are_those_of_timms_own_model(hub, name, pooled):
    backbone = build_backbone(Model(model=name, weights="imagenet", normalizer="zscore"), 7)
    own = timm.create_model(name, pretrained=True, in_chans=2, num_classes=0, global_pool=pooled).eval()
    images = torch.randn(2, 2, 160, 160, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(backbone.module(images), own(images))
    assert backbone.contract.size == 160
    report = backbone.weights
    assert (report.source, report.choice) == (f"timm:{TAGS[name]}", f"hub timm/{TAGS[name]}")
    assert (report.used, report.missing) == (len(own.state_dict()), 0)


def test_a_model_that_timm_also_has_as_an_npz_is_read_from_its_safetensors(hub):
    name, tag = "vit_tiny_patch16_224", "vit_tiny_patch16_224.augreg_in21k"
    assert timm.models.get_pretrained_cfg(tag).custom_load
    put(hub, tag, timm.create_model(name, num_classes=21843).state_dict())
    backbone = build_backbone(Model(model=tag, weights="imagenet", normalizer="zscore"), 7)
    own = timm.create_model(tag, pretrained=True, in_chans=2, num_classes=0, global_pool="token").eval()
    images = torch.randn(1, 2, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(backbone.module(images), own(images))


def test_the_two_bands_see_the_first_kernels_by_three_halves(hub):
    backbone = build_backbone(Model(model="test_vit", weights="imagenet", normalizer="zscore"), 7)
    kernels = trained("test_vit", 0).patch_embed.proj.weight.detach()
    assert torch.allclose(backbone.module.vit.patch_embed.proj.weight.detach(), 1.5 * kernels[:, :2])


def test_another_content_of_the_same_name_is_another_identity(hub):
    before = build_backbone(Model(model="test_vit", weights="imagenet", normalizer="zscore"), 7).weights.sha256
    assert build_backbone(Model(model="test_vit", weights="imagenet", normalizer="zscore"), 8).weights.sha256 == before
    put(hub, TAGS["test_vit"], trained("test_vit", 5).state_dict())
    after = build_backbone(Model(model="test_vit", weights="imagenet", normalizer="zscore"), 7).weights.sha256
    assert after != before


def test_weights_that_timm_would_leave_at_random_are_refused(hub):
    state = trained("test_vit", 0).state_dict()
    put(hub, TAGS["test_vit"], {key: value for key, value in state.items() if "blocks.1.mlp" not in key})
    with pytest.raises(BenchError, match=r"timm leaves 2 tensors of test_vit.r160_in1k at random, first blocks\.1"):
        build_backbone(Model(model="test_vit", weights="imagenet", normalizer="zscore"), 7)


def test_a_run_says_whose_weights_they_are_and_that_their_input_is_assumed(hub, tmp_path):
    data = shared_world(5)
    flags = (*SHORT, "--data_path", data, "--model", "test_resnet", "--weights", "imagenet", "--input_size", "32")
    first = call("linear", *flags, cwd=tmp_path)
    assert first.code == 0, first.err
    assert first.err.count("the weights imagenet were trained on optical images: zscore by") == 1
    record = only_record(tmp_path / "results")
    held = record["model"]["weights"]
    assert (held["source"], held["choice"]) == (f"timm:{TAGS['test_resnet']}", f"hub timm/{TAGS['test_resnet']}")
    assert len(held["sha256"]) == 64
    contract = record["model"]["contract"]
    assert (contract["normalizer"], contract["assumed"], contract["calibration"]) == ("zscore", True, "unstated")
    assert {"contract_assumed", "weights"} <= set(codes(record))
    assert "calibration_mismatch" not in codes(record)
    assert record["config"]["model"]["weights"] == "imagenet"
    assert "recorded already" in call("linear", *flags, cwd=tmp_path).err
    stated = call("linear", *flags, "--normalizer", "zscore", "--results_dir", "stated", cwd=tmp_path)
    assert stated.code == 0, stated.err
    owned = only_record(tmp_path / "stated")
    assert owned["run_id"] != record["run_id"]
    planned = row(model="test_resnet", weights="imagenet", input_size=32, normalizer="zscore", **CACHED)
    assert [matches(planned, planned.runs[0], each) for each in (owned, record)] == [True, False]


CACHED = {"features": "cached", "epochs": 1}


def row(**flags):
    runs = (PlannedRun(label="row", flags={"dataset": "eurosat", "batch_size": 16, **flags}),)
    return Experiment(title="T", module="linear", protocol="linear_probe", layout=Layout(columns=("run",)), runs=runs)


def test_a_named_model_with_its_weights_from_python(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick = {"features": "cached", "epochs": 1, "batch_size": 16, "data_path": shared_world(5), **PLACES}
    record = fgmae_bench.evaluate("test_resnet", "eurosat", weights="imagenet", input_size=32, **quick)
    assert record["model"]["name"] == "test_resnet"
    assert record["model"]["weights"]["source"] == f"timm:{TAGS['test_resnet']}"
    with pytest.raises(BenchError, match="leave it out: a model that is named"):
        fgmae_bench.evaluate("test_resnet", "eurosat", name="mine", **quick)
    with pytest.raises(BenchError, match="give name="):
        fgmae_bench.evaluate(torch.nn.Conv2d(2, 8, 8, 8), "eurosat", **quick)


@pytest.mark.parametrize(
    ("model", "line"),
    [
        ("croma_base", "croma_base is not a model of timm"),
        ("own:factory", "own:factory is not a model of timm"),
        ("vit_small_patch8_224.nope", "Invalid pretrained tag (nope)"),
        ("resnet14t.nothing", "Invalid pretrained tag"),
        ("legacy_seresnet18", "timm has no weights for legacy_seresnet18 on the hub"),
        ("vit_base_patch16_18x2_224", "timm has no weights for vit_base_patch16_18x2_224 on the hub"),
    ],
)
def test_models_without_such_weights_are_refused_in_one_line(tmp_path, model, line):
    flags = ("--data_path", shared_world(5), "--model", model, "--weights", "imagenet")
    assert line in said(call("linear", *SHORT, *flags, cwd=tmp_path))
    with pytest.raises(BenchError):
        resolve_contract(Model(model=model, weights="imagenet"))


def test_without_a_network_one_line_says_what_to_do(hub, tmp_path):
    flags = ("--data_path", shared_world(5), "--model", "test_efficientnet", "--weights", "imagenet")
    line = said(call("linear", *SHORT, *flags, cwd=tmp_path))
    assert "timm's weights of test_efficientnet cannot be had" in line
    assert "copy the hub's cache" in line
    assert not (tmp_path / "results").exists()


def test_a_hub_that_does_not_answer_is_asked_once(hub, tmp_path, monkeypatch):
    """timm's own download asks ten times in 46 seconds, a line each, and asks for what is in the cache too."""
    monkeypatch.setattr(pytest.importorskip("huggingface_hub").constants, "HF_HUB_OFFLINE", False)
    asked = []

    def ask(source):
        asked.append(source.file)
        raise BenchError("the hub cannot be reached", "check the network")

    monkeypatch.setattr(timm_weights, "ask", ask)
    with pytest.raises(BenchError, match=r"cannot be had \(the hub cannot be reached"):
        build_backbone(Model(model="test_efficientnet", weights="imagenet"), 7)
    build_backbone(Model(model="test_vit", weights="imagenet"), 7)
    assert asked == ["model.safetensors"]


def test_a_damaged_file_of_the_hub_ends_in_one_line(hub, tmp_path):
    next(hub.glob("*test_vit*/snapshots/*/model.safetensors")).write_bytes(b"\x10\0\0\0\0\0\0\0{broken")
    flags = ("--data_path", shared_world(5), "--model", "test_vit", "--weights", "imagenet")
    assert "model.safetensors cannot be read" in said(call("linear", *SHORT, *flags, cwd=tmp_path))


def test_a_prefix_is_refused_beside_them():
    with pytest.raises(BenchError, match="--weights_prefix with --weights imagenet"):
        resolve_contract(Model(model="test_vit", weights="imagenet", weights_prefix="net."))
