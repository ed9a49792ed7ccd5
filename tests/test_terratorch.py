"""TerraMind against terratorch's own call. terratorch is no part of the environment of tests: they run where it is."""

import importlib.util

import numpy as np
import pytest
import torch

from fgmae_bench.config.encoders import ENCODERS
from fgmae_bench.config.run import Model
from fgmae_bench.models.build import build_backbone
from fgmae_bench.models.sensitivity import blind_to_polarisation, sensitivity
from fgmae_bench.views.normalizers import normalize

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not importlib.util.find_spec("terratorch"), reason="terratorch is not installed"),
]


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_terramind_gives_what_terratorchs_own_call_gives(size, realdata):
    from terratorch.registry import BACKBONE_REGISTRY

    name = f"terramind-v1-{size}"
    backbone = build_backbone(Model(model=name, weights="random"), 0)
    own = BACKBONE_REGISTRY.build(f"terramind_v1_{size}", pretrained=False, modalities=["S1GRD"]).eval()
    own.load_state_dict(backbone.module.inner.network.state_dict())
    x = np.load(realdata / "weights" / "oracle_features.npz")["x_db"][:2]
    chips = torch.nn.functional.interpolate(torch.from_numpy(x), (224, 224)).numpy()
    # by hand: terratorch's statistics of untok_sen1grd@224
    by_hand = (chips - np.array([-12.599, -20.293])[:, None, None]) / np.array([5.195, 5.890])[:, None, None]
    with torch.inference_mode():
        tokens = own({"S1GRD": torch.from_numpy(by_hand.astype(np.float32))})[-1]  # (2, 196, D)
        images = torch.from_numpy(normalize(chips.copy(), None, backbone.contract))
        torch.testing.assert_close(backbone.module(images), tokens.mean(1), atol=2e-5, rtol=1e-4)
        made = backbone.module.inner(images)
    torch.testing.assert_close(made, tokens.transpose(1, 2).unflatten(2, (14, 14)), atol=2e-5, rtol=1e-4)
    assert (backbone.params, backbone.feature_dim) == (ENCODERS[name].params, ENCODERS[name].dim)
    found = sensitivity(backbone, chips)
    assert not blind_to_polarisation(found)
    assert min(found[change] for change in ("gain", "contrast", "pixels lost")) > 1e-6, found
