"""SAR2SAR (Dalsasso, Denis & Tupin 2021, doi 10.1109/JSTARS.2021.3071864): a learned despeckler, an optional extra.

Its weights are `sar2sar.pth` of the package deepdespeckling 0.8 (MIT), read without unpickling. Layers, names and
normalisation are those of that package's `model.py` and `sar2sar_denoiser.py`.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu, max_pool2d

from fgmae_bench.checkpoints.reader import State, read_state
from fgmae_bench.errors import BenchError

LOW, HIGH = -1.429329123112601, 10.089038980848645  # logarithms of amplitude that become 0 and 1
SMALLEST = 1e-6  # added to an amplitude before its logarithm
GAIN = 237 / math.sqrt(math.sin(math.radians(38)))  # digital number of an SLC by square root of sigma nought
FRAME = 16  # pixels mirrored on each side, at the least: a chip's edge is not an edge of the ground
HALVINGS = 5
CONVOLUTIONS = {
    "enc0": (1, 48), "enc1": (48, 48), "enc2": (48, 48), "enc3": (48, 48), "enc4": (48, 48), "enc5": (48, 48),
    "enc6": (48, 48), "dec5": (96, 96), "dec5b": (96, 96), "dec4": (144, 96), "dec4b": (96, 96), "dec3": (144, 96),
    "dec3b": (96, 96), "dec2": (144, 96), "dec2b": (96, 96), "dec1a": (97, 64), "dec1b": (64, 32), "dec1": (32, 1),
}  # fmt: skip
# Of the tensors in the order of their names, float32. MERLIN's networks have the same layers and another input.
PUBLISHED = "75bd3decd22ea2b97d747f57514fc8a6297652b702d9261f22864361a6d6afad"
OF_MERLIN = {
    "6105d4a24c180970b587edccd5f3a10c15e093f91eb0d864bdc4c47a641460c0": "spotlight",
    "125d781e71c3065ec3472cee6f09e41a3449e441a85ef561bd33cd05493034fc": "stripmap",
    "ee582db0cb38d5cdade6d9ea81ff258004ac8714dcf6b37568b9e2e96f17a915": "sentinel_tops",
}


class Sar2Sar(nn.Module):
    """The network: noise in the logarithm of amplitude, scaled to [0, 1], is estimated and subtracted."""

    def __init__(self) -> None:
        super().__init__()
        made = {name: nn.Conv2d(*channels, 3, padding=1) for name, channels in CONVOLUTIONS.items()}
        self.layers = nn.ModuleDict(made)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1, H, W) to the same shape; sides are multiples of 32."""
        skips, x = [image], self._through(image, "enc0", "enc1")
        for name in ("enc2", "enc3", "enc4", "enc5"):
            skips.append(max_pool2d(x, 2))
            x = self._through(skips[-1], name)
        x = self._through(max_pool2d(x, 2), "enc6")
        for names in (("dec5", "dec5b"), ("dec4", "dec4b"), ("dec3", "dec3b"), ("dec2", "dec2b"), ("dec1a", "dec1b")):
            x = self._through(torch.cat((interpolate(x, scale_factor=2), skips.pop()), dim=1), *names)
        noise: Tensor = self.layers["dec1"](x)
        return image - noise

    def _through(self, x: Tensor, *names: str) -> Tensor:
        for name in names:
            x = leaky_relu(self.layers[name](x), 0.1)
        return x


class Despeckler:
    """Power to despeckled power, band by band; `sha256` is that of the tensors, `published` whether they are the known
    ones.
    """

    def __init__(self, network: Sar2Sar, sha256: str):
        self.network, self.sha256, self.published = network.eval(), sha256, sha256 == PUBLISHED

    def __call__(self, power: NDArray[np.float64]) -> NDArray[np.float64]:
        """Power (C, H, W), without holes, to the same shape."""
        height, width = power.shape[1:]
        frame = [(FRAME, FRAME + -(side + 2 * FRAME) % 2**HALVINGS) for side in (height, width)]
        amplitude = GAIN * np.sqrt(np.pad(power, ((0, 0), *frame), mode="symmetric"))
        scaled = (np.log(amplitude + SMALLEST) - LOW) / (HIGH - LOW)
        with torch.inference_mode():
            found = self.network(torch.from_numpy(scaled.astype(np.float32))[:, None])[:, 0].double().numpy()
        clean: NDArray[np.float64] = np.square(np.exp(found * (HIGH - LOW) + LOW) / GAIN)
        return clean[:, FRAME : FRAME + height, FRAME : FRAME + width]


def read_despeckler(path: Path) -> Despeckler:
    """The despeckler of a file of weights, which is not unpickled.

    Raises BenchError on other tensors than SAR2SAR's, on numbers that are not finite, and on MERLIN's.
    """
    state, network = read_state(path), Sar2Sar()
    wanted = {name.removeprefix("layers."): tuple(held.shape) for name, held in network.state_dict().items()}
    _require(state, wanted)
    tensors = {name: state.tensors[name].float() for name in sorted(wanted)}
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise BenchError(f"{path}: {name} holds values that are not finite", "get the file again")
        digest.update(tensor.contiguous().numpy().tobytes())
    sha256 = digest.hexdigest()
    if sha256 in OF_MERLIN:
        what = f"{path} holds MERLIN's weights ({OF_MERLIN[sha256]}), which expect complex data"
        raise BenchError(what, "give sar2sar.pth")
    network.layers.load_state_dict(tensors)
    return Despeckler(network, sha256)


def _require(state: State, wanted: dict[str, tuple[int, ...]]) -> None:
    """Raise BenchError unless a file holds the wanted tensors and no others."""
    held = {name: tuple(tensor.shape) for name, tensor in state.tensors.items()}
    other = [name for name in sorted({*wanted, *held}) if wanted.get(name) != held.get(name)]
    if other or state.outside or state.prefix:
        where = f"{other[0]} is {held.get(other[0], 'not there')}, wanted is " if other else ""
        text = f"{where}{wanted.get(other[0], 'nothing')}" if other else f"its names begin with {state.prefix}"
        raise BenchError(f"{state.path} is not SAR2SAR: {text}", "give sar2sar.pth of deepdespeckling")
