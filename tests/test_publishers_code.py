"""Encoders whose architecture no kept library carries whole: against the outputs of their publishers' own code.

`oracles/publishers.npz` holds what that code gave (mbzuai-oryx/TerraFM @ e186ad8, terrafm.py; zhu-xlab/DOFA @ a414125,
dofa_v2.py) of small networks whose weights and images follow from a closed form, which is written again here.
"""

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from fgmae_bench.config.encoders import ENCODERS
from fgmae_bench.config.run import Model
from fgmae_bench.errors import BenchError
from fgmae_bench.models.build import build_backbone
from fgmae_bench.models.encoders import terrafm
from fgmae_bench.models.sensitivity import blind_to_polarisation, sensitivity
from fgmae_bench.models.torchgeo_models import DOFA_WAVELENGTHS

ORACLES = np.load(Path(__file__).parent / "oracles" / "publishers.npz")


def values(name, shape):
    """Numbers that follow from a name: a sine of their place."""
    scale = 0.08 if len(shape) > 1 else 0.3
    drawn = np.sin(np.arange(int(np.prod(shape))) * 12.9898 + zlib.crc32(name.encode()) % 1000) * scale
    return torch.from_numpy(drawn.astype(np.float32).reshape(shape))


def filled(network):
    network.load_state_dict({key: values(key, tuple(tensor.shape)) for key, tensor in network.state_dict().items()})
    return network.eval()


def image(count, side):
    return values(f"image {side}", (count, 2, side, side)) / 0.08


@pytest.mark.parametrize("side", [64, 96])
def test_terrafm_gives_what_its_own_code_gives(side):
    """At the size of the stored position embedding and at another, where it is resized by DINO's factors."""
    made = terrafm.TerraFM(filled(terrafm.Network(24, 4, 2, grid=4)))
    with torch.inference_mode():
        np.testing.assert_allclose(made.pooled(image(2, side)), ORACLES[f"terrafm_{side}"], atol=2e-6, rtol=1e-5)
        np.testing.assert_allclose(made(image(2, side)), ORACLES[f"terrafm_map_{side}"], atol=2e-6, rtol=1e-5)


def test_dofa_v2_gives_what_its_own_code_gives(monkeypatch):
    embedding = pytest.importorskip("torchgeo.models.dofa").DOFAEmbedding
    from fgmae_bench.models.encoders import dofa_v2

    network = filled(dofa_v2.Network(embedding, 16, 2, 2))
    with torch.inference_mode():
        for waves, name in (([3.75, 3.75], "dofa_v2_map"), ([3.75, 5.405], "dofa_v2_two")):
            tokens = network(image(1, 224), waves)[:, 1:]
            got = tokens.transpose(1, 2).unflatten(2, (16, 16))[:, :, ::3, ::3]
            np.testing.assert_allclose(got, ORACLES[name], atol=2e-6, rtol=1e-5)
        tokens = network(image(1, 224), DOFA_WAVELENGTHS[""])[:, 1:]
        normed = torch.nn.functional.layer_norm(tokens, (16,), network.model.norm.weight, network.model.norm.bias, 1e-6)
        pooled = dofa_v2.DofaV2(network).pooled(image(1, 224))
        np.testing.assert_allclose(pooled, normed.mean(1), atol=2e-6, rtol=1e-5)


def test_a_file_of_terrafm_loads_and_its_optical_keys_are_accounted_for(tmp_path, monkeypatch):
    monkeypatch.setitem(terrafm.SHAPES, "base", (24, 2, 2))
    network = terrafm.Network(24, 2, 2)
    optical = {f"patch_embed.conv2d_s2_{level}.weight": torch.zeros(72, 12, 16, 16) for level in ("l1c", "l2a")}
    optical |= {f"patch_embed.s2_{level}_embed": torch.zeros(1, 72) for level in ("l1c", "l2a")}
    torch.save({**network.state_dict(), **optical}, tmp_path / "TerraFM-B.pth")
    weights = str(tmp_path / "TerraFM-B.pth")
    backbone = build_backbone(Model(model="terrafm-base", weights=weights, normalizer="zscore", input_size=64), 0)
    assert (backbone.weights.used, backbone.weights.dropped) == (len(network.state_dict()), 4)
    images = image(2, 64)
    with torch.inference_mode():
        torch.testing.assert_close(backbone.module(images), network.eval()(images)[:, 0])


@pytest.mark.slow
@pytest.mark.usefixtures("quick_draws")
@pytest.mark.parametrize("name", ["terrafm-base", "dofa-v2-base"])
def test_the_whole_encoders_run_and_answer_changes_of_their_input(name, realdata):
    if name.startswith("dofa"):
        pytest.importorskip("torchgeo")
    backbone = build_backbone(Model(model=name, weights="random"), 0)
    x = np.load(realdata / "weights" / "oracle_features.npz")["x_db"][:1]
    x = torch.nn.functional.interpolate(torch.from_numpy(x), (224, 224)).numpy()
    for parameter in backbone.module.parameters():  # scales of layers begin at 1e-5
        if parameter.dim() == 1 and 0 < parameter.abs().max() <= 1e-4:
            parameter.data.fill_(0.5)
    found = sensitivity(backbone, x)
    assert backbone.feature_dim == ENCODERS[name].dim
    assert blind_to_polarisation(found) == name.startswith("dofa"), found
    assert min(found[change] for change in ("gain", "contrast", "pixels lost")) > 1e-6, found


def test_sizes_that_they_cannot_take_are_refused():
    with pytest.raises(BenchError, match="--input_size 100 is not divisible by the patch of 16 px"):
        build_backbone(Model(model="terrafm-base", weights="random", input_size=100), 0)
    with pytest.raises(BenchError, match="--input_size 196: dofa-v2-base takes 224 px"):
        build_backbone(Model(model="dofa-v2-base", weights="random", input_size=196), 0)
