"""How far a backbone's features move when its input does: bands swapped, and a few stresses of one severity each."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from fgmae_bench.models.backbone import Backbone, images_a_pass
from fgmae_bench.views import stress
from fgmae_bench.views.normalizers import normalize
from fgmae_bench.views.stress import Scene
from fgmae_bench.views.stress_table import apply

BLIND = 1e-4  # relative change below which a backbone does not tell VV from VH
SWAPPED = "bands swapped"
# What is shown by name: the stress of `fgmae_bench.views.stress_table`, its severity, and what it stands for.
STRESSED = {
    "gain": ("offset", 1.0, "1 dB added"),
    "contrast": ("contrast", 0.1, "dB scaled by 1.1 about the mean of each band"),
    "pixels lost": ("lost", 0.05, "5% of the pixels NaN, filled as invalid ones are"),
    "looks lost": ("speckle", 3.4, "speckle of 2 looks in place of 4.4"),
    "noise": ("noise", -22.0, "thermal noise of -22 dB, the specified noise-equivalent sigma nought, added"),
}
CHANGES = {
    SWAPPED: "VV in place of VH and the reverse, after normalisation",
    **{name: text for name, (_, _, text) in STRESSED.items()},
}


def sensitivity(backbone: Backbone, chips_db: NDArray[np.float32]) -> dict[str, float]:
    """Relative change |f' - f| / |f| of the features of chips (B, 2, H, W) dB, mean over chips, by the keys of CHANGES;
    NaN where features are not finite. Bands are VV, VH.
    """
    order = [("VV", "VH").index(band) for band in backbone.contract.bands]
    x = chips_db[:, order]
    clean = _input(backbone, x)
    base = _features(backbone, clean)
    norm = np.linalg.norm(base, axis=1)
    # after the normaliser: equal kernels see no difference then, whatever the bands' own means
    swapped = np.stack([stress.swapped(image, np.ones(image.shape, bool), 1, Scene(sample=""))[0] for image in clean])
    changed = {SWAPPED: swapped} | {
        name: _stressed(backbone, x, of, severity) for name, (of, severity, _) in STRESSED.items()
    }
    return {
        name: float(np.mean(np.linalg.norm(_features(backbone, images) - base, axis=1) / norm))
        for name, images in changed.items()
    }


def _stressed(backbone: Backbone, x: NDArray[np.float32], name: str, severity: float) -> NDArray[np.float32]:
    """Input of chips (B, 2, H, W) dB under a stress, about the mean of each chip's bands."""
    images, valid = [], []
    for i, chip in enumerate(x):
        means = tuple(float(value) for value in chip.mean((1, 2)))
        db, kept = apply(name, chip, None, severity, Scene(sample=str(i), bands=backbone.contract.bands, means=means))
        images.append(db)
        valid.append(np.ones(db.shape, bool) if kept is None else kept)
    masks = np.stack(valid)
    return _input(backbone, np.stack(images), None if masks.all() else masks)


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
    return found[SWAPPED] < BLIND
