"""Other backbones under the contract they were trained with: key rules, position embeddings, torchgeo's own forward,
foreign normalisers.
"""

import importlib.util
import sys

import numpy as np
import pytest
import timm
import torch
from commands import FOLDERS, call, codes, only_record, records, said, shared_world
from safetensors.torch import save_file
from tiny_checkpoints import state_of

from fgmae_bench.checkpoints.load import account, load_backbone
from fgmae_bench.checkpoints.reader import read_state
from fgmae_bench.checkpoints.registry import WEIGHTS
from fgmae_bench.config.contract import FGMAE_CONTRACT, InputContract
from fgmae_bench.config.encoders import encoders
from fgmae_bench.config.run import Model
from fgmae_bench.errors import BenchError
from fgmae_bench.models.build import FGMAE_ARCHITECTURES, build_backbone
from fgmae_bench.models.taps import make_taps
from fgmae_bench.models.weights import empty_network, torchgeo_model, torchgeo_name
from fgmae_bench.views.normalizers import normalize

needs_torchgeo = pytest.mark.skipif(not importlib.util.find_spec("torchgeo"), reason="torchgeo is not installed")


def zeros_like(module):
    """A state of the module's keys and shapes without memory."""
    return {
        name: torch.zeros((), dtype=tensor.dtype).expand(tensor.shape) for name, tensor in module.state_dict().items()
    }


@pytest.mark.parametrize("extra", ["fc.weight", "encoder_k.conv1.weight", "queue"])
def test_key_rules_of_a_resnet(tmp_path, extra):
    network, _ = empty_network("resnet50", 224)
    _, report = account(network, state_of(tmp_path, zeros_like(network), outside={extra: torch.zeros(1)}))
    assert (report.used, sum(report.dropped.values()), report.missing) == (318, 1, 0)


def test_a_resnet_may_lack_its_batch_counters_and_nothing_else(tmp_path):
    network, _ = empty_network("resnet50", 224)
    tensors = {name: tensor for name, tensor in zeros_like(network).items() if not name.endswith("num_batches_tracked")}
    _, report = account(network, state_of(tmp_path, tensors))
    assert (report.used, report.missing) == (265, 53)
    del tensors["layer4.2.bn3.running_var"]
    with pytest.raises(BenchError, match=r"lacks 1 keys of the model: layer4\.2\.bn3\.running_var"):
        account(network, state_of(tmp_path, tensors))


def test_a_resnet_of_thirteen_bands_is_refused_by_cause(tmp_path):
    network, _ = empty_network("resnet50", 224)
    tensors = zeros_like(network) | {"conv1.weight": torch.zeros(1).expand(64, 13, 7, 7)}
    with pytest.raises(BenchError, match="takes 13 channels, the model 2"):
        account(network, state_of(tmp_path, tensors))


def test_a_resnet_from_moco_gives_timms_features(tmp_path):
    """The whole way in small: module.encoder_q. beside module.encoder_k., float and integer buffers."""
    theirs = timm.create_model("test_resnet", in_chans=2, num_classes=0).eval()
    with torch.no_grad():
        for tensor in theirs.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor))
    own = theirs.state_dict()
    state = {f"module.encoder_q.{k}": v for k, v in own.items()} | {
        f"module.encoder_k.{k}": v + 1 for k, v in own.items()
    }
    torch.save(
        {"state_dict": state | {"module.encoder_q.fc.0.weight": torch.ones(2), "module.queue": torch.ones(3)}},
        tmp_path / "w.pth",
    )
    backbone = build_backbone(Model(model="test_resnet", weights=str(tmp_path / "w.pth"), input_size=64), 0)
    images = torch.rand(2, 2, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(backbone.module(images), theirs(images))
    assert backbone.weights.used == len(own)
    assert backbone.weights.dropped == len(own) + 2


@pytest.mark.parametrize(("model", "tokens"), [("vit_small_patch14_dinov2", 257), ("vit_base_patch14_dinov2", 257)])
def test_softcons_vits_are_timms_dinov2_at_224(tmp_path, model, tokens):
    network, _ = empty_network(model, 224)
    tensors = zeros_like(network)
    assert tuple(tensors["pos_embed"].shape)[1] == tokens
    assert "blocks.0.ls1.gamma" in tensors
    _, report = account(network, state_of(tmp_path, tensors | {"mask_token": torch.zeros(1, 1)}))
    assert (report.used, report.dropped, report.missing) == (len(tensors), {"decoder": 1}, 0)


def test_softcons_position_embedding_is_resized_to_another_input(tmp_path):
    network, _ = empty_network("vit_small_patch14_dinov2", 224)
    smaller, _ = empty_network("vit_small_patch14_dinov2", 112)
    tensors, report = account(smaller, state_of(tmp_path, zeros_like(network)))
    assert (report.interpolated, tuple(tensors["pos_embed"].shape)) == (True, (1, 65, 384))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "model"), [(name, model) for name, models in WEIGHTS.items() for model in models])
def test_every_registered_model_takes_two_channels(name, model):
    if model not in FGMAE_ARCHITECTURES and not timm.is_model(model):
        pytest.importorskip("torchgeo")
    entry = encoders().get(model)
    if entry is not None and entry.extra == "terratorch" and not importlib.util.find_spec("terratorch"):
        with pytest.raises(BenchError, match="needs terratorch"):
            empty_network(model, WEIGHTS[name][model].contract.size)
        return
    # torchgeo's CROMA draws its attention bias in any case, for each pair of patches
    network, _ = empty_network(model, 24 if model.startswith("croma") else WEIGHTS[name][model].contract.size)
    weights = network.state_dict()
    first = weights.get("patch_embed.proj.weight", weights.get("conv1.weight"))
    own = entry is not None and entry.code  # an adapter feeds two bands in a way of its own, see test_encoders.py
    assert own or first is None or first.shape[1] == 2


def test_a_model_that_does_not_take_two_channels_is_refused(monkeypatch):
    def three_only(pretrained=False, num_classes=0):
        return torch.nn.Conv2d(3, 4, 1)

    monkeypatch.setattr(timm, "create_model", lambda name, **options: three_only(**options))
    with pytest.raises(
        BenchError, match=r"test_resnet cannot be built for two channels .*; choose a timm model that takes in_chans"
    ):
        build_backbone(Model(model="test_resnet", weights="random"), 0)


# --- torchgeo


def test_torchgeos_names_lead_to_registered_weights():
    assert torchgeo_model("torchgeo:ViTSmall16_Weights.SENTINEL1_GRD_FGMAE") == "vit_small_patch16"
    assert torchgeo_name("torchgeo:ResNet50_Weights.SENTINEL1_ALL_MOCO", "resnet50") == "ssl4eo-moco"
    with pytest.raises(BenchError, match="are those of resnet50, not of vit_small_patch16; use --model resnet50"):
        torchgeo_name("torchgeo:ResNet50_Weights.SENTINEL1_ALL_MOCO", "vit_small_patch16")
    with pytest.raises(BenchError, match=r"did you mean 'ResNet50_Weights\.SENTINEL1_ALL_MOCO'"):
        torchgeo_model("torchgeo:ResNet50_Weights.SENTINEL1_ALL_MOKO")


def test_without_torchgeo_its_models_say_how_to_get_it(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torchgeo", None)
    monkeypatch.setitem(sys.modules, "torchgeo.models", None)
    with pytest.raises(BenchError, match=r"needs torchgeo.*; install it with: pip install 'fgmae-bench\[torchgeo\]'"):
        build_backbone(Model(model="croma_base", weights="random"), 0)


@needs_torchgeo
def test_every_sentinel_1_enum_of_torchgeo_is_registered_or_refused_by_cause():
    from torchgeo.models import ResNet50_Weights, Swin_V2_B_Weights, ViTSmall14_DINOv2_Weights, ViTSmall16_Weights

    for enum in (ResNet50_Weights, ViTSmall14_DINOv2_Weights, ViTSmall16_Weights):
        for member in (member for member in enum if "SENTINEL1" in member.name):
            model = torchgeo_model(f"torchgeo:{enum.__name__}.{member.name}")
            hub = WEIGHTS[torchgeo_name(f"torchgeo:{enum.__name__}.{member.name}", model)][model].hub
            assert member.url.endswith(f"/{hub.repo}/resolve/{hub.revision}/{hub.file}")
    assert torchgeo_model(f"torchgeo:{Swin_V2_B_Weights.SENTINEL1_SI_SATLAS}") == "satlas-swin-b"
    with pytest.raises(
        BenchError, match=r"the input contract of torchgeo's ResNet50_Weights\.SENTINEL2_ALL_MOCO is not known here"
    ):
        torchgeo_model(f"torchgeo:{ResNet50_Weights.SENTINEL2_ALL_MOCO}")


TORCHGEO = ("croma_base", "dofa_base_patch16_224", "copernicusfm_base")


def of_torchgeo(model, network, images):
    """torchgeo's own forward on two bands."""
    if model.startswith("croma"):
        return network(x_sar=images)["sar_GAP"]
    if model.startswith("dofa"):
        return network(images, wavelengths=[3.75, 3.75])
    unknown = torch.full((len(images), 4), torch.nan)
    return network(images, unknown, wavelengths=[5e7, 5e7], bandwidths=[1e9, 1e9], kernel_size=16)


@pytest.mark.slow
@needs_torchgeo
@pytest.mark.usefixtures("quick_draws")
@pytest.mark.parametrize("model", TORCHGEO)
def test_features_are_those_of_torchgeos_own_forward_with_the_same_weights(tmp_path, model):
    import torchgeo.models

    side = 64 if model.startswith("croma") else None  # of 120 its bias alone takes ten seconds, twice
    more = {"modalities": ["sar"], "image_size": side} if side else {"num_classes": 0}
    with torch.random.fork_rng():
        torch.manual_seed(5)
        theirs = getattr(torchgeo.models, model)(**more).eval()
    weights = theirs.state_dict() | (
        {"s2_encoder.linear_input.bias": torch.ones(2)} if model.startswith("croma") else {}
    )
    weights.pop("attn_bias", None)
    torch.save(weights, tmp_path / "w.pth")
    backbone = build_backbone(Model(model=model, weights=str(tmp_path / "w.pth"), input_size=side), 0)
    size = backbone.contract.size
    images = torch.rand(2, 2, size, size)
    with torch.inference_mode():
        torch.testing.assert_close(backbone.module(images), of_torchgeo(model, theirs, images))
        tokens = backbone.module.inner(images)
    assert tokens.shape[:2] == (2, backbone.feature_dim)
    assert make_taps(backbone.module, size).dims == (backbone.feature_dim,) * 4  # what `segment` builds its head on
    assert backbone.weights.missing == (1 if model.startswith("croma") else 0)


@pytest.mark.slow
@needs_torchgeo
@pytest.mark.usefixtures("quick_draws")
def test_torchgeos_models_run_through_linear_under_our_contract(tmp_path):
    short = ("--train_frac", "0.25", "--epochs", "1", "--batch_size", "8")  # 20 images in all
    flags = ("--weights", "random", "--features", "cached", *short, *FOLDERS)
    for model, size, normalizer in (
        ("croma_base", "32", "zscore"),
        ("copernicusfm_base", "32", "zscore"),
        ("dofa_base_patch16_224", "224", "zscore"),
    ):
        result = call(
            "linear",
            "--dataset",
            "eurosat",
            "--data_path",
            shared_world(5),
            "--model",
            model,
            "--input_size",
            size,
            *flags,
            cwd=tmp_path,
        )
        assert result.code == 0, result.err
        record = next(r for r in records(tmp_path / "results") if r["model"]["name"] == model)
        assert record["model"]["contract"]["normalizer"] == normalizer


# --- contracts


def test_architectures_without_weights_have_their_usual_contract():
    from fgmae_bench.models.build import resolve_contract

    assert resolve_contract(Model(model="resnet50", weights="random")) == FGMAE_CONTRACT
    assert resolve_contract(Model(model="croma_base", weights="random")).normalizer == "zscore"
    assert resolve_contract(Model(model="croma_base", weights="croma-image")).normalizer == "croma"
    assert resolve_contract(Model(model="resnet50", weights="closp")).normalizer == "decibels"
    assert resolve_contract(Model(model="resnet50", weights="closp", normalizer="zscore")).normalizer == "zscore"


def test_a_foreign_normaliser_is_said_before_the_run_and_noted(tmp_path, monkeypatch):
    from test_weights_manifest import GOOD

    (tmp_path / "weights.toml").write_text(GOOD)
    monkeypatch.setenv("FGMAE_BENCH_WEIGHTS", str(tmp_path / "weights.toml"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    vit = build_backbone(Model(model="test_vit", weights="random", input_size=32), 0).module.vit
    torch.save(vit.state_dict(), tmp_path / "tiny.pth")
    assert call("weights.__main__", "fetch", "tiny", "--from", ".", "--cache_dir", "cache", cwd=tmp_path).code == 0
    flags = (
        "--dataset",
        "eurosat",
        "--data_path",
        shared_world(5),
        "--model",
        "test_vit",
        "--weights",
        "tiny",
        "--features",
        "cached",
        "--epochs",
        "1",
        "--batch_size",
        "16",
        *FOLDERS,
    )
    assert call("linear", *flags, cwd=tmp_path).code == 0
    record = only_record(tmp_path / "results")
    assert "contract_mismatch" not in codes(record)
    assert (record["model"]["contract"]["normalizer"], record["model"]["contract"]["bands"]) == ("zscore", ["VH", "VV"])
    foreign = call("linear", *flags, "--normalizer", "clip25", "--results_dir", "other", cwd=tmp_path)
    assert foreign.code == 0
    warning = "the input is normalised by clip25, the weights tiny were trained on zscore: expect worse features"
    assert foreign.err.index(warning) < foreign.err.rindex("\n") - len(warning)  # before what the run itself says
    assert "contract_mismatch" in codes(only_record(tmp_path / "other"))
    assert "unknown normalizer" in said(call("linear", *flags, "--normalizer", "clip24", cwd=tmp_path))


# --- normalisers of other models


def test_cromas_input_is_each_images_own_window():
    rng = np.random.default_rng(0)
    images = rng.normal(-15, 4, (3, 2, 20, 24)).astype(np.float32)
    valid = rng.random(images.shape) > 0.2
    contract = InputContract(normalizer="croma", size=120)
    got = normalize(images.copy(), valid, contract)
    for image, mask, out in zip(images.astype(np.float64), valid, got, strict=True):
        for band, kept, values in zip(image, mask, out, strict=True):
            mean, deviation = band[kept].mean(), band[kept].std()
            expected = np.clip((band - (mean - 2 * deviation)) / (4 * deviation), 0, 1)
            np.testing.assert_allclose(values[kept], expected[kept], atol=1e-6)
            assert (values[~kept] == 0.5).all()
    np.testing.assert_array_equal(normalize(images[:1].copy(), valid[:1], contract), got[:1])
    flat = normalize(np.full((1, 2, 4, 4), -10, np.float32), None, contract)
    assert (flat == 0.5).all()


def test_decibels_are_untouched_but_for_invalid_pixels():
    images = np.random.default_rng(0).normal(-15, 4, (2, 2, 8, 8)).astype(np.float32)
    valid = np.ones(images.shape, bool)
    valid[0, 1, 3, 3] = False
    contract = InputContract(normalizer="decibels")
    got = normalize(np.where(valid, images, np.nan), valid, contract)
    np.testing.assert_array_equal(got[valid], images[valid])
    assert got[0, 1, 3, 3] == np.float32(contract.mean[1])


def test_load_backbone_takes_any_module(tmp_path):
    network = timm.create_model("test_resnet", in_chans=2, num_classes=3)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    report = load_backbone(timm.create_model("test_resnet", in_chans=2, num_classes=5), tmp_path / "w.pth")
    assert (report.dropped, report.missing) == ({"head": 2}, 2)


# --- tokens of other transformers


@pytest.mark.parametrize(
    ("model", "size", "prefix"),
    [
        ("vit_small_patch16_dinov3", 64, 5),
        ("eva02_tiny_patch14_224", 56, 1),
        pytest.param("beit_base_patch16_224", 64, 1, marks=pytest.mark.slow),
    ],
)
def test_eva_dinov3_and_beit_have_a_cls_token(tmp_path, model, size, prefix, quick_draws):
    """The feature is timm's first token behind its norms; the default stays timm's own pooling."""
    backbone = build_backbone(Model(model=model, weights="random", input_size=size, pool="cls"), 0)
    vit = backbone.module.vit
    images = torch.linspace(-2, 2, 2 * size * size).view(1, 2, size, size)
    with torch.inference_mode():
        tokens = vit.forward_features(images)
        assert tokens.shape[1] == prefix + (size // vit.patch_embed.patch_size[0]) ** 2
        torch.testing.assert_close(backbone.module(images), vit.fc_norm(tokens[:, 0]))
    assert (backbone.pool, backbone.feature_dim) == ("cls", tokens.shape[2])
    torch.save({"model": vit.state_dict()}, tmp_path / "w.pth")
    again = build_backbone(Model(model=model, weights=str(tmp_path / "w.pth"), input_size=size, pool="cls"), 1)
    assert again.fingerprint() == backbone.fingerprint()
    assert build_backbone(Model(model=model, weights="random", input_size=size), 0).pool == "mean"


def test_a_position_embedding_of_eva_is_resized_behind_its_token(tmp_path):
    build = {"model": "eva02_tiny_patch14_224", "pool": "cls"}
    small = build_backbone(Model(weights="random", input_size=56, **build), 0).module.vit
    torch.save(small.state_dict(), tmp_path / "w.pth")
    state = read_state(tmp_path / "w.pth")
    with torch.device("meta"):
        large = timm.create_model("eva02_tiny_patch14_224", in_chans=2, num_classes=0, img_size=84)
    tensors, report = account(large, state, r".*rope.*")
    assert report.interpolated
    assert tensors["pos_embed"].shape == (1, 37, 192)
    assert torch.equal(tensors["pos_embed"][:, 0], small.pos_embed[:, 0])


# --- what a stranger's file could bring along


def test_a_factory_is_named_before_its_module_is_imported(tmp_path, monkeypatch):
    """`--config` of a stranger may name any importable module: the line stands before what the module itself prints."""
    (tmp_path / "evilpkg.py").write_text("import sys\nprint('imported', file=sys.stderr)\nfactory = None\n")
    (tmp_path / "config.toml").write_text(
        f'[data]\ndataset = "eurosat"\n[model]\nmodel = "evilpkg:factory"\n[execution]\ndata_path = "{shared_world(5)}"\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "evilpkg", raising=False)
    result = call("linear", "--config", "config.toml", *FOLDERS, cwd=tmp_path)
    lines = result.err.splitlines()
    assert result.code == 2
    assert lines[-1].startswith("error: --model evilpkg:factory made NoneType, not an nn.Module")
    assert lines.index("--model evilpkg:factory: importing evilpkg, which runs its code") < lines.index("imported")


@pytest.mark.parametrize("spec", [":f", "..a:f", "a:", "a b:f", "a:f.g", "a:f:g"])
def test_what_is_not_a_module_and_a_factory_is_refused(spec):
    with pytest.raises(BenchError, match=r"--model .* is not module:factory; give names of Python"):
        build_backbone(Model(model=spec, weights="random"), 0)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"contract": ' * 5000,
        "9" * 5000,
        '{"contract": {"bands": ["VV"], "normalizer": "\x1b[2J"}}',
        '{"contract": 7}',
        "[]",
        "{}",
        '"',
    ],
)
def test_a_damaged_contract_in_metadata_is_refused(tmp_path, text):
    """In safetensors and in a `.pth`: one line, whatever the metadata holds."""
    vit = build_backbone(Model(model="test_vit", weights="random", input_size=32), 0).module.vit
    save_file(vit.state_dict(), tmp_path / "w.safetensors", metadata={"fgmae_bench": text})
    torch.save({"model": vit.state_dict(), "metadata": {"fgmae_bench": text}}, tmp_path / "w.pth")
    for name in ("w.safetensors", "w.pth"):
        result = call("weights.__main__", "convert", name, "out.safetensors", cwd=tmp_path)
        assert said(result)
        assert name in result.err
    assert not (tmp_path / "out.safetensors").exists()
