"""AnySat, SAR-JEPA, SARATR-X and SAR-HUB against the outputs of their publishers' own code.

`oracles/publishers_more.npz` holds what that code gave (gastruc/AnySat @ e03e72e, hubconf.py; waterdisappear/SAR-JEPA @
1f17f90, Pretraining/models_vit_rp.py; waterdisappear/SARATR-X @ e71184d, classification/model/hivit.py; XAI4SAR/SAR-HUB
@ 26788b2, Pre-training/models/network.py) of small networks with the weights and images of `closed_form.py`.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from closed_form import filled, image
from timm.models.resnet import BasicBlock, Bottleneck, ResNet

from fgmae_bench.checkpoints.registry import WEIGHTS
from fgmae_bench.config.encoders import ENCODERS
from fgmae_bench.config.run import Model
from fgmae_bench.errors import BenchError
from fgmae_bench.models.build import build_backbone
from fgmae_bench.models.encoders import anysat, one_band, relative, sar_jepa, saratr_x
from fgmae_bench.models.sensitivity import blind_to_polarisation, sensitivity

ORACLES = np.load(Path(__file__).parent / "oracles" / "publishers_more.npz")


def equals(got, name, atol=4e-5):
    np.testing.assert_allclose(got, ORACLES[name], atol=atol, rtol=1e-5)


def vv(images):
    """The first band before a second that is never to be read."""
    return torch.cat([images, torch.full_like(images, torch.nan)], dim=1)


@pytest.mark.parametrize(("side", "patch", "day"), [(16, 4, 165), (12, 3, 20), (8, 1, 300)])
def test_anysat_gives_what_its_own_code_gives(side, patch, day):
    made = anysat.AnySat(filled(anysat.Network(128, 2, 4)), patch)
    given = {"day_of_year": torch.full((2,), day)}
    with torch.inference_mode():
        equals(made.pooled(image(2, side), given), f"anysat_{side}_{patch}0_tile")
        equals(made(image(2, side), given)[:, ::9], f"anysat_{side}_{patch}0_patch")
        if day == anysat.ASSUMED_DAY:
            equals(made.pooled(image(2, side)), f"anysat_{side}_{patch}0_tile")
        else:
            assert not torch.allclose(made.pooled(image(2, side)), made.pooled(image(2, side), given))


def test_anysat_in_parts_is_anysat_at_once(monkeypatch):
    made = anysat.AnySat(filled(anysat.Network(128, 1, 4)), 2)
    with torch.inference_mode():
        whole = made.pooled(image(2, 8))
        monkeypatch.setattr(anysat, "PIXELS", 24)
        monkeypatch.setattr(anysat, "PATCHES", 5)
        torch.testing.assert_close(made.pooled(image(2, 8)), whole)


def test_sar_jepa_gives_what_its_own_code_gives():
    made = sar_jepa.SarJepa(filled(sar_jepa.Network(24, 2, 2)), ENCODERS["sar-jepa-vit-b16"])
    with torch.inference_mode():
        equals(made.pooled(vv(image(2, 128, 1))), "sar_jepa", 5e-6)
        equals(made(vv(image(2, 128, 1))).flatten(2).transpose(1, 2)[:, ::3], "sar_jepa_tokens", 5e-6)


def test_relative_positions_are_those_of_the_papers_formula():
    """Eq. 18 of arXiv 2107.14222 by hand at alpha 1.9, beta 3.8, gamma 15.2: 0, 1, then by the logarithm."""
    assert relative.steps(np.array([0, 1, 2, 3, 4, 15, 40, -1, -2, -5.0])).tolist() == [0, 1, 2, 2, 3, 3, 3, -1, -2, -3]
    made = relative.buckets(3, "distance")
    assert made[0].tolist() == made[:, 0].tolist() == [7] * 10
    assert made[1, 1:].tolist() == [3, 4, 5, 4, 4, 5, 5, 5, 6 - 1]  # of the corner: rounded distances 0 to 3
    assert relative.buckets(2, "offsets")[1, 1:].tolist() == [3 * 7 + 3, 3 * 7 + 2, 2 * 7 + 3, 2 * 7 + 2]


def test_saratr_x_gives_what_its_own_code_gives():
    network = filled(saratr_x.Network(32, (1, 1, 2), 2, size=64))
    made = saratr_x.SaratrX(network, ENCODERS["saratr-x-hivit-b"])
    with torch.inference_mode():
        equals(made(vv(image(2, 64, 1))), "saratr_x_map", 1e-5)
        np.testing.assert_allclose(made.pooled(vv(image(2, 64, 1))), ORACLES["saratr_x_map"].mean((2, 3)), atol=1e-5)


def test_saratr_x_has_the_size_that_its_publishers_state():
    """66.42 M with relative positions, a last norm and a head of 1,000 classes, which are not of what runs here."""
    width, _, heads = saratr_x.SHAPES["base"]
    more = 20 * 27**2 * heads + 2 * width + 1000 * (width + 1) - 2 * saratr_x.LEVELS * width
    assert round((ENCODERS["saratr-x-hivit-b"].params + more) / 1e6, 2) == 66.42


@pytest.mark.parametrize(("name", "block", "every"), [("basic", BasicBlock, 1), ("bottleneck", Bottleneck, 4)])
def test_sar_hubs_resnets_are_timms(name, block, every):
    network = filled(ResNet(block, (1, 1, 1, 1), num_classes=0))
    made = one_band.GreyConvolutions(network, ENCODERS["sar-hub-resnet18"])
    with torch.inference_mode():
        equals(made.pooled(vv(image(2, 128, 1)))[:, ::7][:, ::every], f"sar_hub_{name}")


# --- files as published


def published_file(name, tmp_path, monkeypatch):
    """(a file with the keys that the publishers' training writes, our keys in it, keys that are left out)."""
    small = torch.zeros(2)
    if name == "anysat":
        monkeypatch.setitem(anysat.SHAPES, "base", (128, 1, 4))
        own = filled(anysat.Network(128, 1, 4)).state_dict()
        more = {"projector_s1-asc.pad_parameter": small, "projector_s1-asc.patch_embed.attention_heads.Q": small}
        more |= {"projector_s2.patch_embed.inconv.0.weight": small, "projector_aerial-flair.mlp.0.weight": small}
        held = {"state_dict": own | more}
    else:
        module = {"saratr-x-hivit-b": saratr_x, "sar-jepa-vit-b16": sar_jepa}[name]
        shape = (32, (1, 1, 1), 2) if module is saratr_x else (32, 1, 2)
        monkeypatch.setitem(module.SHAPES, "base", shape)
        own = filled(module.Network(*shape)).state_dict()
        more = {"decoder_norm.weight": small, "mask_token": small, "sarfeature1.weight_x1": small}
        more |= {"decoder_blocks.0.norm1.weight": small, "encoder_pred.weight": small}
        held = {"model": {f"module.{key}": tensor for key, tensor in (own | more).items()}, "epoch": 200}
    torch.save(held, tmp_path / "w.pth")
    return str(tmp_path / "w.pth"), own, more


@pytest.mark.parametrize("name", ["anysat", "saratr-x-hivit-b", "sar-jepa-vit-b16"])
def test_a_file_loads_and_the_rest_of_its_keys_is_accounted_for(name, tmp_path, monkeypatch):
    weights, own, more = published_file(name, tmp_path, monkeypatch)
    backbone = build_backbone(Model(model=name, weights=weights, normalizer="zscore"), 0, data_size=(16, 16))
    assert (backbone.weights.used, backbone.weights.dropped) == (len(own), len(more))
    module = backbone.module.inner
    for key, tensor in module.network.state_dict().items():
        assert torch.equal(tensor, own[key]), key


@pytest.mark.parametrize("name", ["sar-hub", "sar-jepa", "saratr-x"])
def test_what_no_address_serves_is_fetched_by_hand(name, tmp_path):
    from fgmae_bench.checkpoints.registry import fetch_weights

    model = next(iter(WEIGHTS[name]))
    with pytest.raises(BenchError, match=rf"{name} for {model} cannot be fetched: .*name it: fetch .* --from FILE"):
        fetch_weights(name, model, tmp_path)
    torch.save({"conv1.weight": torch.zeros(2)}, tmp_path / "mine.pth")
    assert fetch_weights(name, model, tmp_path, tmp_path / "mine.pth").path.is_file()


# --- whole, and what they refuse

WHOLE = ("anysat", "saratr-x-hivit-b", "sar-jepa-vit-b16")


@pytest.mark.slow
@pytest.mark.usefixtures("quick_draws")
@pytest.mark.parametrize("name", WHOLE)
def test_the_whole_encoders_run_and_answer_changes_of_their_input(name, realdata):
    backbone = build_backbone(Model(model=name, weights="random"), 0, data_size=(16, 16))
    side = backbone.contract.size
    x = np.load(realdata / "weights" / "oracle_features.npz")["x_db"][:2]
    x = torch.nn.functional.interpolate(torch.from_numpy(x), (side, side)).numpy()
    found = sensitivity(backbone, x)
    assert (backbone.feature_dim, backbone.params) == (ENCODERS[name].dim, ENCODERS[name].params)
    assert not blind_to_polarisation(found), found
    assert min(found[change] for change in ("gain", "contrast", "pixels lost")) > 1e-6, found


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"model": "anysat", "patch_size": 7}, "--patch_size 7: anysat does not take it; choose from 1, 2, 3"),
        ({"model": "anysat", "input_size": 30}, "--input_size 30 is not divisible by the patch of 4 px"),
        ({"model": "anysat", "input_size": 132}, "132 px in patches of 4 px are more than 1024 patches.*--patch_size"),
        ({"model": "saratr-x-hivit-b", "input_size": 256}, "--input_size 256: saratr-x-hivit-b takes 224 px"),
        ({"model": "sar-jepa-vit-b16", "input_size": 100}, "--input_size 100 is not divisible by the patch of 16"),
    ],
)
def test_sizes_that_they_cannot_take_are_refused(flags, message):
    with pytest.raises(BenchError, match=message), torch.device("meta"):
        build_backbone(Model(weights="random", **flags), 0, data_size=(64, 64))
