"""Weights and images that follow from their names: what publishers' own code was run on, without any file of weights."""

import zlib

import numpy as np
import torch


def drawn(name, shape):
    """Numbers between -1 and 1: what is left of large sines, so that matrices have full rank."""
    places = np.arange(int(np.prod(shape))) * 12.9898 + zlib.crc32(name.encode()) % 1000
    return torch.from_numpy((np.sin(places) * 43758.5453 % 1 * 2 - 1).astype(np.float32).reshape(shape))


def image(count, side, bands=2):
    return drawn(f"image {side}", (count, bands, side, side)) * 1.5


def value(key, tensor):
    if not tensor.is_floating_point():
        return tensor
    found = drawn(key, tuple(tensor.shape))
    if tensor.dim() > 1:  # small kernels, so that sums over residual blocks stay small
        return found * (0.1 if tensor.dim() == 4 and tensor.shape[2] < 4 else 0.4)
    if key.endswith("running_var"):
        return found / 3 + 1
    return found * 0.3 + float(key.endswith("weight"))


def filled(network):
    network.load_state_dict({key: value(key, tensor) for key, tensor in network.state_dict().items()})
    return network.eval()
