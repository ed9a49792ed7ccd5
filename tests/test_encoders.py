"""Encoders of the registry: genuine weights against their publishers' features, the library's own call for the rest."""

import re

import numpy as np
import pytest
import torch
from commands import call, said
from installed_encoders import HERE, needs
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torchvision.models import swin_v2_b

from fgmae_bench.checkpoints.registry import WEIGHTS
from fgmae_bench.config.encoders import ENCODERS, adapter_of
from fgmae_bench.config.run import IMAGENET, Model
from fgmae_bench.models.build import build_backbone
from fgmae_bench.models.contracts import resolve_contract
from fgmae_bench.models.sensitivity import blind_to_polarisation, sensitivity
from fgmae_bench.models.weights import empty_network
from fgmae_bench.views.normalizers import normalize

LARGE = 120_000_000  # parameters; above it the meta device has to do


@pytest.fixture(scope="module")
def oracle(realdata):
    return np.load(realdata / "weights" / "oracle_features.npz")


@pytest.fixture
def genuine(realdata):
    pytest.importorskip("rslearn")
    return {
        "galileo-nano": realdata / "weights" / "galileo_nano_encoder.pt",
        "presto": realdata / "weights" / "presto_default_model.pt",
    }


ORACLES = [("galileo-nano", 4, "galileo_map"), ("galileo-nano", 8, "galileo_p8_map"), ("presto", 4, "presto_map")]


def features(model, weights, patch, x_db):
    """(map, pooled) of chips in dB, the whole way: contract, normaliser, network."""
    backbone = build_backbone(Model(model=model, weights=str(weights), patch_size=patch), 0, data_size=x_db.shape[2:])
    images = torch.from_numpy(normalize(x_db.copy(), None, backbone.contract))
    with torch.inference_mode():
        return backbone.module.inner(images).numpy(), backbone.module(images).numpy()


@pytest.mark.parametrize(("model", "patch", "key"), ORACLES)
def test_genuine_weights_give_their_publishers_features(genuine, oracle, model, patch, key):
    got, pooled = features(model, genuine[model], patch, oracle["x_db"])
    np.testing.assert_allclose(got, oracle[key], atol=1e-5)
    np.testing.assert_allclose(pooled, oracle[key.replace("_map", "_mean")], atol=1e-5)
    if key == "galileo_map":
        np.testing.assert_allclose(pooled, oracle["galileo_repo_average_tokens"], atol=1e-5)


def test_presto_in_larger_cells_is_presto_of_their_mean_decibels(genuine, oracle):
    """At patch 8 the publishers' pixel model is given the mean of 8 x 8 pixels: the mean of four cells of the oracle's."""
    x = oracle["x_db"]
    cells = x.reshape(5, 2, 16, 4, 16, 4).mean((3, 5))
    np.testing.assert_allclose(
        features("presto", genuine["presto"], 8, x)[0], features("presto", genuine["presto"], 2, cells)[0], atol=1e-5
    )
    np.testing.assert_allclose(features("presto", genuine["presto"], 1, cells)[0], oracle["presto_map"], atol=1e-5)


@pytest.mark.parametrize(
    ("model", "patch", "key", "ending"), [(*ORACLES[0], "pth"), (*ORACLES[1], "safetensors"), (*ORACLES[2], "pth")]
)
def test_converted_files_give_the_same_features(genuine, oracle, tmp_path, model, patch, key, ending):
    out = tmp_path / f"mine.{ending}"
    result = call("weights.__main__", "convert", str(genuine[model]), str(out), cwd=tmp_path)
    assert result.code == 0, result.err
    np.testing.assert_allclose(features(model, out, patch, oracle["x_db"])[0], oracle[key], atol=1e-5)


@pytest.mark.parametrize("model", [pytest.param("galileo-nano", marks=pytest.mark.slow), "presto"])
def test_verify_holds_features_against_the_publishers(genuine, realdata, tmp_path, model):
    """As published and converted; another file of the same keys is found out."""
    features = ("--features", str(realdata / "weights" / "oracle_features.npz"), "--cache_dir", "cache")
    assert call("weights.__main__", "convert", str(genuine[model]), "mine.safetensors", cwd=tmp_path).code == 0
    for weights in (str(genuine[model]), "mine.safetensors"):
        result = call("weights.__main__", "verify", weights, "--model", model, *features, cwd=tmp_path)
        assert (result.code, result.out.rstrip().endswith("fit")) == (0, True), said(result)
        assert result.out.split("verdict")[0].split()[-2:] == ["features", "sha256"]
    held, name = load_file(tmp_path / "mine.safetensors"), model.partition("-")[0]
    held["norm.bias"] += 1e-3
    save_file(held, tmp_path / "changed.safetensors", {"fgmae_bench": metadata_of(tmp_path / "mine.safetensors")})
    result = call("weights.__main__", "verify", "changed.safetensors", "--model", model, *features, cwd=tmp_path)
    assert result.code == 1
    assert f"{name}_map differs by up to 0.001 (at most 1e-05)" in result.out
    assert f"{name}_mean differs by up to 0.001" in result.out


def metadata_of(path):
    with safe_open(path, "pt") as opened:
        return opened.metadata()["fgmae_bench"]


BAD_FEATURES = {
    "is no npz": (None, "holds no features"),
    "no chips": ({"presto_map": np.ones((1, 2))}, r"holds no x_db of shape \(N, 2, H, W\)"),
    "another model's": ({"x_db": np.ones((1, 2, 8, 8)), "a_map": np.ones(1)}, "holds no features of presto: a_map"),
    "NaN": ({"x_db": np.full((1, 2, 8, 8), np.nan)}, "x_db holds NaN or infinity"),
    "objects": ({"x_db": np.array([None])}, "holds no features"),
    "another shape": ({"x_db": np.ones((1, 2, 8, 8)), "presto_map": np.ones((1, 3))}, r"is \(1, 3\), the model's"),
}


@pytest.mark.parametrize("kind", BAD_FEATURES)
def test_files_that_hold_no_features_of_a_model_are_refused(kind, genuine, tmp_path):
    arrays, message = BAD_FEATURES[kind]
    np.savez(tmp_path / "f.npz", **(arrays or {}))
    if arrays is None:
        (tmp_path / "f.npz").write_bytes(b"PK none")
    words = (str(genuine["presto"]), "--model", "presto", "--features", "f.npz")
    result = call("weights.__main__", "verify", *words, cwd=tmp_path)
    assert result.code == (1 if kind == "another shape" else 2), said(result)
    assert re.search(message, result.out + result.err), said(result)


def test_fetched_by_name_and_verified(genuine, oracle, tmp_path):
    for name, model in (("galileo", "galileo-nano"), ("presto", "presto")):
        source = tmp_path / "source" / WEIGHTS[name][model].hub.file
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_bytes(genuine[model].read_bytes())
        words = ("fetch", name, "--model", model, "--from", "source", "--cache_dir", "cache")
        fetched = call("weights.__main__", *words, cwd=tmp_path)
        assert (fetched.code, fetched.err.splitlines()[-1]) == (0, "licence: MIT")
        result = call("weights.__main__", "verify", name, "--model", model, "--cache_dir", "cache", cwd=tmp_path)
        assert result.code == 0, said(result)
        assert "FAILED" not in result.out
        assert result.out.rstrip().endswith("fit")
    backbone = build_backbone(
        Model(model="presto", weights="presto", patch_size=4), 0, tmp_path / "cache", data_size=(64, 64)
    )
    assert (backbone.weights.source, backbone.weights.used, backbone.weights.dropped) == ("presto", 50, 52)


def test_random_twins_differ_by_their_seed_and_from_the_genuine_one(genuine, oracle):
    x = normalize(oracle["x_db"][:2].copy(), None, resolve_contract(Model(model="galileo-nano", weights="random")))
    seen = []
    for seed in (0, 0, 1):
        twin = build_backbone(Model(model="galileo-nano", weights="random"), seed, data_size=(64, 64))
        with torch.inference_mode():
            seen.append(twin.module(torch.from_numpy(x)))
    assert torch.equal(seen[0], seen[1])
    assert not torch.allclose(seen[0], seen[2])


# --- the library's own call


def rslearns(entry, network, images):
    """rslearn's class fed by hand: all other groups masked, one time step, month 5."""
    size, batch = images.shape[-1], len(images)
    if entry.model == "presto":
        cells = images.unfold(2, 4, 4).unfold(3, 4, 4).mean((4, 5))  # (B, 2, h, w)
        x = torch.zeros(batch * cells[0, 0].numel(), 1, 17)
        x[:, 0, :2] = cells.permute(0, 2, 3, 1).reshape(-1, 2)
        mask = torch.ones_like(x)
        mask[..., :2] = 0
        cover = torch.full((len(x), 1), 9)
        return network(x, cover, torch.zeros(len(x), 2), mask, 5).view(batch, -1, 128).mean(1)
    from fgmae_bench.models.encoders.adapter import single_file

    code = single_file(entry, "rslearn", "models/galileo/single_file_galileo.py")
    widths = {
        "s_t": (len(code.SPACE_TIME_BANDS), len(code.SPACE_TIME_BANDS_GROUPS_IDX), (size, size, 1)),
        "sp": (len(code.SPACE_BANDS), len(code.SPACE_BAND_GROUPS_IDX), (size, size)),
        "t": (len(code.TIME_BANDS), len(code.TIME_BAND_GROUPS_IDX), (1,)),
        "st": (len(code.STATIC_BANDS), len(code.STATIC_BAND_GROUPS_IDX), ()),
    }
    given = {f"{k}_x": torch.zeros(batch, *where, c) for k, (c, _, where) in widths.items()}
    given |= {f"{k}_m": torch.ones(batch, *where, g) for k, (_, g, where) in widths.items()}
    given["s_t_x"][..., :2] = images.permute(0, 2, 3, 1)[:, :, :, None]
    given["s_t_m"][..., 0] = 0
    out = network(**given, months=torch.full((batch, 1), 5), patch_size=4)
    return network.average_tokens(*out[:-1])


def olmoearths(entry, network, images):
    from olmoearth_pretrain_minimal.olmoearth_pretrain_v1.utils.datatypes import MaskedOlmoEarthSample

    batch, _, size, _ = images.shape
    sample = MaskedOlmoEarthSample(
        timestamps=torch.tensor([[[15, 5, 2020]]]).repeat(batch, 1, 1),
        sentinel1=images.permute(0, 2, 3, 1)[:, :, :, None],
        sentinel1_mask=torch.zeros(batch, size, size, 1, 1, dtype=torch.long),
    )
    out = network(sample, patch_size=4, input_res=10, fast_pass=True)["tokens_and_masks"]
    return out.sentinel1.flatten(1, 4).mean(1)


def torchgeos(entry, network, images):
    unknown = torch.full((len(images), 4), torch.nan)
    if entry.model.startswith("croma"):
        return network(x_sar=images)["sar_GAP"]
    if entry.model.startswith("dofa"):
        wave = 5.405 if entry.model.endswith("c_band") else 3.75
        return network(images, wavelengths=[wave, wave])
    if entry.model == "panopticon":
        return network({"imgs": images.clone(), "chn_ids": torch.tensor([[-1.0, -2.0]]).repeat(len(images), 1)})
    if entry.model == "satlas-swin-b":
        whole = swin_v2_b(num_classes=1)
        whole.features[0][0], whole.head = torch.nn.Conv2d(2, 128, 4, 4), torch.nn.Identity()
        whole.load_state_dict(network.state_dict())
        return whole.eval()(images)
    return network(images, unknown, wavelengths=[5e7, 5e7], bandwidths=[1e9, 1e9], kernel_size=16)


def timms(entry, network, images):
    """timm's own pooling: the CLS token, or what the model itself pools; the grey ViT sees VV three times."""
    if entry.one_band:
        images = images[:, :1].repeat(1, 3, 1, 1)
    if entry.pooling.lower() == "cls":
        return network.forward_head(network.forward_features(images), pre_logits=True)
    return network(images)


def clips(entry, network, images):
    """The tower alone, on colours made by hand: VV, VH and their difference, by CLIP's means and deviations."""
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    vv, vh = images.unbind(1)
    return network((torch.stack([vv, vh, 0.5 + (vv - vh) / 2], 1) - mean[:, None, None]) / std[:, None, None])


OWN_CALL = {
    "open_clip_torch": clips,
    "rslearn": rslearns,
    "olmoearth-pretrain-minimal": olmoearths,
    "torchgeo": torchgeos,
    "timm": timms,
}


SMALL = {"panopticon": 112, "satlas-swin-b": 64, "croma_base": 64, "sarmae-vit-b16": 112}  # any size will do


def check_features(name, chips):
    entry = needs(ENCODERS[name])
    stated = 112 if entry.weights == IMAGENET else WEIGHTS[entry.weights][entry.model].contract.size
    size = SMALL.get(
        name, 16 if len(entry.patches) > 1 else 112 if entry.patch in (14, 16) else 64 if entry.patch == 1 else stated
    )
    size = size or None
    backbone = build_backbone(Model(model=entry.model, weights="random", input_size=size), 0, data_size=(64, 64))
    size = backbone.contract.size
    images = torch.from_numpy(chips[:2] / 10 + 1.5)
    images = torch.nn.functional.interpolate(images, (size, size))
    network = backbone.module.inner.network if adapter_of(entry.model) else getattr(backbone.module, "vit", None)
    network = backbone.module.inner if network is None else network
    rng = torch.Generator().manual_seed(0)
    # begun at 1e-5, features would hardly know their input; ids of channels at 0
    for parameter in network.parameters():
        if parameter.dim() == 1 and 0 < parameter.abs().max() <= 1e-4:
            parameter.data.fill_(0.5)
        elif parameter.dim() > 1 and not parameter.any():
            parameter.data = torch.randn(parameter.shape, generator=rng)
    with torch.inference_mode():
        got = backbone.module(images.clone())
        expected = OWN_CALL[entry.carrier](entry, network, images)
    assert got.shape == (2, entry.dim)
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-4)
    check_sensitivity(
        name, backbone, torch.nn.functional.interpolate(torch.from_numpy(chips[:1]), (size, size)).numpy()
    )


def check_sensitivity(name, backbone, x):
    """Every change of the input moves every encoder; swapped bands do not move one that is told equal wavelengths."""
    if backbone.contract.calibration == "uncalibrated":
        x = (x + 40) * 5  # digital numbers below 255
    found = sensitivity(backbone, x)
    assert all(np.isfinite(list(found.values()))), found
    assert blind_to_polarisation(found) == name.startswith("dofa"), found
    assert min(found[change] for change in ("gain", "contrast", "pixels lost")) > 1e-6, found


QUICK = ("galileo-nano", "presto", "olmoearth-v1-nano")
OF_THEIR_CODE = ("terrafm", "dofa-v2", "anysat", "sar-jepa", "saratr")  # test_publishers_code.py and _more.py
BY_ORACLE = {name for name in ENCODERS if name.startswith(OF_THEIR_CODE)}
FITS = list(
    {e.model: n for n, e in ENCODERS.items() if n in HERE and n not in BY_ORACLE and e.params <= LARGE}.values()
)


@pytest.mark.parametrize("name", QUICK)
def test_small_encoders_give_what_their_libraries_own_call_gives(name, chips):
    check_features(name, chips)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FITS if name not in QUICK])
def test_encoders_give_what_their_libraries_own_call_gives(name, chips, quick_draws):
    check_features(name, chips)


@pytest.mark.slow
def test_encoders_have_the_size_that_is_stated(quick_draws):
    """On the meta device, without memory for weights; torchgeo's CROMA draws its attention bias in any case."""
    for name in {entry.model: name for name, entry in ENCODERS.items() if name in HERE}.values():
        entry = needs(ENCODERS[name])
        size = 224 if entry.weights == IMAGENET else WEIGHTS[entry.weights][entry.model].contract.size
        network, _ = empty_network(entry.model, 24 if entry.model.startswith("croma") else size or 64)
        assert sum(parameter.numel() for parameter in network.parameters()) == entry.params, name
        sides = {
            side for held in network.state_dict().values() if held.dim() for side in (held.shape[0], held.shape[-1])
        }
        assert entry.dim in sides, name


# Encoder parameters as the publishers' own texts have them: README of olmoearth-pretrain-minimal, in millions; the cards
# and papers of the others.
STATED = {
    "olmoearth-v1-nano": 1.4,
    "olmoearth-v1-tiny": 6.2,
    "olmoearth-v1-base": 89,
    "olmoearth-v1-large": 308,
    "olmoearth-v1.1-nano": 1.7,
    "olmoearth-v1.1-tiny": 12.5,
    "olmoearth-v1.1-base": 114,
    "olmoearth-v1.2-nano": 1.7,
    "olmoearth-v1.2-tiny": 12.5,
    "olmoearth-v1.2-small": 35.6,
    "olmoearth-v1.2-base": 114,
    "olmoearth-v1.3-base": 128,
    "reben-vit-b8": 85.3,
}


@pytest.mark.parametrize("name", STATED)
def test_sizes_are_those_that_the_publishers_state(name):
    digits = 1 if STATED[name] < 100 and STATED[name] != 89 else 0
    assert round(ENCODERS[name].params / 1e6, digits) == STATED[name]
