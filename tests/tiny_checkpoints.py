"""Small checkpoints: a ViT of two blocks, a state dict of its shape under every name, writers of containers, and what a
refusal says.

A test file takes the fixture with `pytest_plugins = ("tiny_checkpoints",)`.
"""

import pickle
import warnings
from collections import OrderedDict

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from fgmae_bench.checkpoints.load import load_backbone
from fgmae_bench.checkpoints.reader import State
from fgmae_bench.checkpoints.shapes import VitShape, encoder_shapes, full_shapes
from fgmae_bench.errors import BenchError

TINY = VitShape(dim=32, depth=2, heads=2, patch=4, size=16, decoder_dim=16, decoder_depth=1)
ENCODER, DECODER, HOG = len(encoder_shapes(TINY)), 1 + 1 + 2 + 12 + 2 + 2, 3
DROPPED = {"decoder": DECODER, "hog": HOG}


def tiny_vit(**changed):
    """A timm ViT of TINY's shape, weights from a seed of its own."""
    options = {
        "img_size": 16,
        "patch_size": 4,
        "in_chans": 2,
        "embed_dim": 32,
        "depth": 2,
        "num_heads": 2,
        "num_classes": 0,
    }
    with torch.random.fork_rng():
        torch.manual_seed(99)
        return VisionTransformer(**options | changed).eval()


def features(vit):
    with torch.inference_mode():
        return vit.forward_features(torch.linspace(-2, 2, 2 * 2 * 16 * 16).view(2, 2, 16, 16))


def expected_features(weights):
    """Features of a ViT that got the encoder's keys of `weights` by torch itself."""
    vit = tiny_vit()
    vit.load_state_dict({name: weights[name].float() for name in encoder_shapes(TINY)})
    return features(vit)


@pytest.fixture(scope="module")
def weights():
    """A full FGMAE state dict in small, every tensor random, so that no two can be confused."""
    generator = torch.Generator().manual_seed(3)
    return OrderedDict(
        (name, torch.randn(shape, generator=generator)) for name, shape in full_shapes(TINY, hog=True).items()
    )


def arrays(weights):
    return {name: tensor.numpy() for name, tensor in weights.items()}


def nested(flat):
    """{'blocks.0.norm1.weight': x} as {'blocks': {'0': {'norm1': {'weight': x}}}}."""
    tree = {}
    for name, value in flat.items():
        *folders, leaf = name.split(".")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[leaf] = value
    return tree


def renamed(weights, prefix):
    return {prefix + name: tensor for name, tensor in weights.items()}


def pickled(path, value, protocol=4):
    path.write_bytes(pickle.dumps(value, protocol=protocol))


def legacy(path, value):
    torch.save(value, path, _use_new_zipfile_serialization=False)


def failure(path, vit=None):
    """The message of a refused load: one line that names the file; nothing is said, warned or loaded."""
    vit = vit or tiny_vit()
    before = {name: tensor.clone() for name, tensor in vit.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BenchError) as caught:
            load_backbone(vit, path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in vit.state_dict().items())
    line = str(caught.value)
    assert line.startswith(str(path))
    assert line.isprintable()
    assert "; " in line
    return line


def weights_manifest(name, *, file, layout="encoder", more=""):
    """A manifest with one file of weights, z-scored VH before VV; `more` lines belong to its entry."""
    return f"""
[contracts.mine]
source = "a test"
bands = ["VH", "VV"]
normalizer = "zscore"
mean = [-20.0, -12.0]
std = [6.0, 5.0]
size = 32

[[weights]]
name = "{name}"
model = "test_vit"
file = "{file}"
layout = "{layout}"
contract = "mine"
licence = "none"
data = "noise"
{more}
"""


def state_of(path, tensors, **more):
    """The state dict of a file that holds `tensors` and nothing else."""
    facts = {"format": "", "bytes": 0, "sha256": "", "wrapper": "", "prefix": "", "outside": {}, "plain": {}}
    return State(path=path, tensors=tensors, **{**facts, "others": {}, "notes": (), **more})
