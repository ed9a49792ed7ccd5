"""The registry of encoders: its names, files and licences, keys of checkpoints, and what is refused."""

import dataclasses
import subprocess
import sys
import types

import pytest
import timm
import torch
from commands import REPOSITORY, call, said
from installed_encoders import HERE, NOT_HERE, needs
from safetensors.torch import save_file
from timm.models import get_pretrained_cfg

from fgmae_bench.checkpoints.registry import WEIGHTS, by_file, place_of
from fgmae_bench.config.cards import load_card
from fgmae_bench.config.compose import compose
from fgmae_bench.config.contract import FGMAE_CONTRACT
from fgmae_bench.config.encoders import ENCODERS, Encoder, adapter_of, encoders
from fgmae_bench.config.run import IMAGENET, Model
from fgmae_bench.errors import BenchError
from fgmae_bench.models.architectures import make_adapter, timm_name
from fgmae_bench.models.build import build_backbone
from fgmae_bench.models.contracts import resolve_contract
from fgmae_bench.models.weights import empty_network


def test_every_name_of_the_registry_has_weights_with_a_contract():
    for name, entry in ENCODERS.items():
        if entry.weights == IMAGENET:
            assert get_pretrained_cfg(timm_name(entry.model)).hf_hub_id
            continue
        held = WEIGHTS[entry.weights][entry.model]
        assert held.licence, name
        assert set(HERE) | set(NOT_HERE) == set(ENCODERS)
    for weights in WEIGHTS.values():  # and every adapter's weights an entry
        for model in weights:
            assert adapter_of(model) is not None or timm.is_model(model) or model.startswith("vit_")


def test_the_registry_lists_without_torch():
    code = "import sys, fgmae_bench.config.encoders as e; e.encoders(); assert 'torch' not in sys.modules; print(len(e.ENCODERS))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.stdout.split() == [str(len(ENCODERS))], done.stderr


def test_a_name_of_the_registry_means_its_model_and_its_weights():
    card = load_card("eurosat")

    def model_of(**flags):
        return compose("linear", {"dataset": "eurosat", **flags}, card)[0].model

    assert model_of(model="reben-vit-b8") == model_of(model="vit_base_patch8_224", weights="reben")
    assert model_of(model="galileo-nano").weights == "galileo"
    assert model_of(model="galileo-nano", weights="random").weights == "random"
    assert model_of(model="croma_base").weights == "croma"
    from_config = compose("linear", {"model": "presto"}, card, {"dataset": "eurosat", "weights": "random"})[0].model
    assert (from_config.model, from_config.weights) == ("presto", "random")


def test_common_file_names_say_nothing_about_a_file(tmp_path):
    for name in ("model.safetensors", "weights.pth", "encoder.pt", "default_model.pt"):
        assert by_file(tmp_path / name) is None
    assert by_file(tmp_path / "mine.pt", WEIGHTS["presto"]["presto"].sha256).entry.name == "presto"


def test_a_licence_that_forbids_a_use_is_said_when_fetched(tmp_path):
    network, _ = empty_network("vit_tiny_patch16_224", 32)
    weights = {f"sar_encoder.{name}": torch.zeros(tensor.shape) for name, tensor in network.state_dict().items()}
    torch.save(weights, tmp_path / "w.pth")
    words = ("fetch", "sarmae", "--model", "sarmae-vit-b16", "--from", "w.pth", "--cache_dir", "cache")
    result = call("weights.__main__", *words, cwd=tmp_path)
    assert result.code == 0, said(result)
    assert result.err.splitlines()[-1] == "licence: CC-BY-NC-4.0, gated: no commercial use"
    for name, word in (("olmoearth", "no military"), ("sarmae", "no commercial")):
        assert all(word in entry.licence for entry in WEIGHTS[name].values())


def test_names_of_one_file_share_it(tmp_path):
    one, other = (WEIGHTS[name]["croma_base"] for name in ("croma", "croma-batch"))
    assert place_of("croma", one, tmp_path) == place_of("croma-batch", other, tmp_path)


def test_an_encoder_of_ones_own_comes_by_an_entry_point(monkeypatch):
    mine = dataclasses.replace(ENCODERS["galileo-nano"], model="mine")

    class Point:
        name = "mine"
        loaded = mine

        def load(self):
            return self.loaded

    point = Point()
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [point])
    encoders.cache_clear()
    try:
        assert encoders()["mine"] is mine
        assert adapter_of("mine") is mine
        encoders.cache_clear()
        point.loaded = print
        with pytest.raises(BenchError, match=r"the entry point mine of fgmae_bench\.encoders is of type builtin_"):
            encoders()
        point.name, point.loaded = "presto", mine
        with pytest.raises(BenchError, match="the encoder presto is defined twice"):
            encoders()
    finally:
        encoders.cache_clear()
    assert isinstance(ENCODERS["presto"], Encoder)


# --- keys of checkpoints


def test_reben_files_lose_their_prefix_and_their_head(tmp_path):
    """As timm itself loads the same tensors; the norm before a ConvNeXt's head is part of the features."""
    theirs = timm.create_model("test_convnext", in_chans=2, num_classes=19).eval()
    with torch.no_grad():
        theirs.head.norm.weight.uniform_(0.5, 2)
    save_file(
        {f"model.vision_encoder.{name}": tensor for name, tensor in theirs.state_dict().items()},
        tmp_path / "model.safetensors",
    )
    model = Model(
        model="test_convnext",
        weights=str(tmp_path / "model.safetensors"),
        weights_prefix="model.vision_encoder.",
        normalizer="zscore",
        input_size=64,
    )
    backbone = build_backbone(model, 0)
    images = torch.rand(2, 2, 64, 64)
    with torch.inference_mode():
        expected = theirs.forward_head(theirs.forward_features(images), pre_logits=True)
        torch.testing.assert_close(backbone.module(images), expected)
    assert backbone.weights.dropped == 2


# --- bad input


def test_without_its_library_an_encoder_names_the_extra(monkeypatch):
    for package, name, extra in (
        ("olmoearth_pretrain_minimal", "olmoearth-v1-nano", "olmoearth"),
        ("torchgeo.models", "panopticon", "torchgeo"),
    ):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(BenchError, match=rf"install it with: pip install 'fgmae-bench\[{extra}\]'"):
            make_adapter(name, 224 if name == "panopticon" else 64)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "fgmae_bench.models.encoders.adapter.rslearn.single_file_galileo", raising=False)
    with pytest.raises(BenchError, match=r"galileo-nano needs rslearn.*pip install 'fgmae-bench\[rslearn\]'"):
        make_adapter("galileo-nano", 64)


@pytest.mark.parametrize("name", NOT_HERE)
def test_an_encoder_of_terratorch_names_the_extra_or_the_release(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "terratorch.registry", None)
    with pytest.raises(BenchError, match=rf"{name} needs terratorch.*pip install 'fgmae-bench\[terratorch\]'"):
        make_adapter(name, 288)
    older = types.SimpleNamespace(BACKBONE_REGISTRY=())
    monkeypatch.setitem(sys.modules, "terratorch.registry", older)
    with pytest.raises(BenchError, match=rf"{name} needs a terratorch with \w+, which this one lacks; install terra"):
        make_adapter(name, 288)


def test_an_unknown_version_of_olmoearth_is_refused():
    """The package itself builds v1 for any text that it does not know."""
    from fgmae_bench.models.encoders.olmoearth import make

    entry = needs(ENCODERS["olmoearth-v1.2-nano"])
    with pytest.raises(BenchError, match=r"unknown version of OlmoEarth 'v1_2'; did you mean 'v1\.2'"):
        make(dataclasses.replace(entry, variant="v1_2 nano"), 64, 4)
    with pytest.raises(BenchError, match=r"cannot be built \(model_size 'tiny' is not available for v1\.3"):
        make(dataclasses.replace(entry, variant="v1.3 tiny"), 64, 4)


@pytest.mark.parametrize(
    ("flags", "size", "message"),
    [
        (
            {"model": "galileo-nano", "patch_size": 9},
            64,
            "--patch_size 9: galileo-nano does not take it; choose from 1, 2, 3",
        ),
        (
            {"model": "galileo-nano", "patch_size": 7},
            64,
            "images of 64x64 px: galileo-nano takes squares of whole patches of 7",
        ),
        (
            {"model": "galileo-nano", "input_size": 30, "patch_size": 4},
            64,
            "--input_size 30 is not divisible by the patch of 4",
        ),
        ({"model": "croma_base", "patch_size": 4}, 64, "--patch_size 4: croma_base does not take it; leave it out"),
        ({"model": "vit_small_patch16", "patch_size": 16}, 64, "--patch_size 16: vit_small_patch16 does not take it"),
        ({"model": "resnet50", "input_size": "native"}, (64, 48), "images of 64x48 px: resnet50 takes squares"),
        ({"model": "galileo-nano", "pool": "cls"}, 64, "galileo-nano has no CLS token; use --pool mean"),
    ],
)
def test_sizes_outside_an_encoders_range_are_refused(flags, size, message):
    needs(adapter_of(flags["model"]) or ENCODERS["fgmae-vit-s16"])
    side = size if isinstance(size, tuple) else (size, size)
    with pytest.raises(BenchError, match=message):
        build_backbone(Model(weights="random", **flags), 0, data_size=side)


def test_native_pixels_are_not_resized():
    contract = resolve_contract(Model(model="resnet50", weights="random", input_size="native"))
    assert contract == dataclasses.replace(FGMAE_CONTRACT, size=0, geometry="native")
    backbone = build_backbone(Model(model="test_resnet", weights="random", input_size="native"), 0, data_size=(96, 96))
    assert backbone.contract.size == 96
