"""The heads against mmsegmentation's own: its random states by its own keys, its inputs, its outputs to 1e-5."""

import numpy as np
import pytest
import torch
from torch import nn

from fgmae_bench.models.heads import (
    aspp,
    attention,
    context,
    dm,
    enc,
    fcn,
    jpu,
    knet,
    lightham,
    necks,
    pointrend,
    psp,
    segformer,
    segmenter,
    semantic_fpn,
    setr,
    uper,
    upernet,
)

DIM, WIDTH, CLASSES = 24, 16, 5  # of the reference's modules
FLAT, PYRAMID = (16,) * 4, (4, 8, 16, 32)


def made(kind, strides=(8,) * 4, **more):
    return kind((DIM,) * 4, strides, CLASSES, **{"fpn_dim": WIDTH, **more})


def decoded(head, inputs):
    return [head.decode(inputs)]


def listed(module, inputs):
    return list(module(inputs))


def mla():
    """The head alone: the reference's inputs are those behind the neck, its branches as wide as ours at twice the width."""
    head = made(setr.MLA, fpn_dim=2 * WIDTH)
    head.neck = nn.Identity()
    for branch in head.up_convs:
        branch[0].conv = nn.Conv2d(DIM, WIDTH, 3, padding=1, bias=False)
    return head


# Name of the reference -> (ours, what is called, names that differ as (theirs, ours)).
CASES = {
    "FCNHead": (lambda: made(fcn.FCN), decoded, ()),
    "PSPHead": (lambda: made(psp.PSP), decoded, ()),
    "ASPPHead": (lambda: made(aspp.DeepLabV3), decoded, ()),
    "DepthwiseSeparableASPPHead": (
        lambda: made(aspp.DeepLabV3Plus, PYRAMID, rates=(1, 6, 12, 18), fine_dim=6),
        decoded,
        (),
    ),
    "UPerHead": (lambda: made(uper.UPer, PYRAMID), decoded, ()),
    "GCHead": (lambda: made(context.gc), decoded, ()),
    "ISAHead": (lambda: made(attention.ISA), decoded, ()),
    "NLHead": (lambda: made(context.non_local), decoded, ()),
    "DNLHead": (lambda: made(context.dnl), decoded, ()),
    "DMHead": (lambda: made(dm.DM), decoded, ()),
    "EncHead": (lambda: made(enc.Enc, codes=8), lambda head, inputs: list(head.both(inputs)), ()),
    "SegformerHead": (lambda: made(segformer.SegFormer, PYRAMID), decoded, ()),
    "SegmenterMaskTransformerHead": (lambda: made(segmenter.MaskTransformer, heads=4), decoded, ()),
    "SETRUPHead_pup": (lambda: made(setr.PUP), decoded, ()),
    "SETRUPHead_naive": (lambda: made(setr.Naive), decoded, ()),
    "SETRMLAHead": (mla, decoded, ()),
    "FPNHead": (lambda: semantic_fpn.FPNHead(DIM, CLASSES, WIDTH, "batch"), decoded, ()),
    "JPU": (lambda: jpu.JPU((DIM,) * 3, WIDTH, "batch"), lambda neck, inputs: [*inputs[:2], neck(inputs)], ()),
    "Feature2Pyramid": (
        lambda: upernet.ScaleNeck((DIM,) * 4, "batch"),
        listed,
        (("upsample_4x", "scales.0"), ("upsample_2x.0", "scales.1")),
    ),
    "LightHamHead": (lambda: made(lightham.LightHam, PYRAMID, rank=4, groups=4), decoded, ()),
    "OCRHead": (lambda: made(attention.OCR), lambda head, inputs: [head.refined(*inputs[3:])], ()),
    "PointHead": (
        lambda: pointrend.PointHead(DIM, CLASSES, WIDTH),
        lambda head, inputs: [head(*inputs)],
        (),
    ),
    "KNet": (
        lambda: made(knet.KNet, stages=2, heads=4, inner=32),
        lambda head, inputs: [head.stages(inputs)[-1]],
        (),
    ),
    "MultiLevelNeck": (lambda: necks.MultiLevelNeck((DIM,) * 4, WIDTH), listed, ()),
}
OWN = {"OCRHead": "coarse."}  # keys of ours that the reference keeps in another module


@pytest.fixture(scope="module")
def oracles(shared_data):
    return np.load(shared_data / "mmseg_head_oracles.npz")


def part(oracles, name, what):
    start = f"{name}/{what}/"
    return {key.removeprefix(start): torch.from_numpy(oracles[key]) for key in oracles.files if key.startswith(start)}


def test_every_oracle_is_tried(oracles):
    assert {key.split("/")[0] for key in oracles.files} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_the_references(name, oracles):
    build, call, renamed = CASES[name]
    torch.manual_seed(0)
    head = build().eval()
    state = part(oracles, name, "state")
    for theirs, ours in renamed:
        state = {key.replace(theirs, ours): value for key, value in state.items()}
    missing, unexpected = head.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(key.startswith(OWN.get(name, "?")) for key in missing), missing
    inputs, outputs = part(oracles, name, "in"), part(oracles, name, "out")
    with torch.no_grad():
        found = call(head, [inputs[str(i)] for i in range(len(inputs))])
    assert len(found) == len(outputs)
    for i, out in enumerate(found):
        torch.testing.assert_close(out, outputs[str(i)], rtol=1e-5, atol=1e-5)
