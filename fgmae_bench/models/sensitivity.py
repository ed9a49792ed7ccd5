"""How far a backbone's features move when its input does: bands swapped, gain, contrast, pixels lost."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from fgmae_bench.models.backbone import Backbone, images_a_pass
from fgmae_bench.system.randomness import generator
from fgmae_bench.views.normalizers import normalize

GAIN_DB, CONTRAST, LOST = 1.0, 1.1, 0.05
BLIND = 1e-4  # relative change below which a backbone does not tell VV from VH
CHANGES = {
    "bands swapped": "VV in place of VH and the reverse, after normalisation",
    "gain": f"{GAIN_DB:g} dB added",
    "contrast": f"dB scaled by {CONTRAST:g} about the mean of each band",
    "pixels lost": f"{LOST:.0%} of the pixels NaN, filled as invalid ones are",
}


def sensitivity(backbone: Backbone, chips_db: NDArray[np.float32]) -> dict[str, float]:
    """Relative change |f' - f| / |f| of the features of chips (B, 2, H, W) dB, mean over chips, by the keys of CHANGES;
    NaN where features are not finite. Bands are VV, VH.
    """
    order = [("VV", "VH").index(band) for band in backbone.contract.bands]
    x = chips_db[:, order]
    centre = x.mean((2, 3), keepdims=True)
    lost = generator(0, "sensitivity").random(x.shape) < LOST
    base = _features(backbone, _input(backbone, x))
    changed = {
        "bands swapped": _input(backbone, x)[:, ::-1],
        "gain": _input(backbone, x + np.float32(GAIN_DB)),
        "contrast": _input(backbone, (x - centre) * np.float32(CONTRAST) + centre),
        "pixels lost": _input(backbone, np.where(lost, np.nan, x), ~lost),
    }
    norm = np.linalg.norm(base, axis=1)
    return {
        name: float(np.mean(np.linalg.norm(_features(backbone, images) - base, axis=1) / norm))
        for name, images in changed.items()
    }


def _input(backbone: Backbone, x: NDArray[np.float32], valid: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    images = normalize(x.astype(np.float32), valid, backbone.contract)
    scale = np.float32(255 if images.dtype == np.uint8 else 1)
    return np.asarray(images, np.float32) / scale


def _features(backbone: Backbone, images: NDArray[np.float32]) -> NDArray[np.float64]:
    step = images_a_pass(images.shape[-1])
    with torch.inference_mode():
        parts = [
            backbone.module(torch.from_numpy(np.ascontiguousarray(images[i : i + step])))
            for i in range(0, len(images), step)
        ]
    return torch.cat(parts).double().numpy()


def blind_to_polarisation(found: dict[str, float]) -> bool:
    """Whether features stay when the bands are swapped: equal wavelengths give equal kernels, as in DOFA."""
    return found["bands swapped"] < BLIND
