"""A decode head that begins with the weights of an mmsegmentation checkpoint: the same logits, or a refusal."""

import shlex
import shutil

import pytest
import torch
from commands import only_record
from segment_world import FROZEN, opened, segment

from fgmae_bench.checkpoints.reader import read_state
from fgmae_bench.errors import BenchError
from fgmae_bench.models.heads import make_head
from fgmae_bench.models.heads.loading import load_head

pytest_plugins = ("segment_world",)
DIM, WIDTH = 16, 16
PYRAMID = (4, 8, 16, 32)
# mmsegmentation's names of what has other names here: (beginning of ours, of theirs), the first that fits.
NAMES = {
    "ocr": (("coarse.0.", "decode_head.0.convs.0."), ("coarse.1.", "decode_head.0.conv_seg."), ("", "decode_head.1.")),
    "pointrend": (("neck.1.", "neck."), ("points.", "decode_head.1."), ("drawn", ""), ("", "decode_head.0.")),
    "semantic_fpn": (("neck.1.", "neck."), ("", "decode_head.")),
    "setr_mla": (("neck.norm.", "neck.norm."), ("neck.", "neck.mla."), ("", "decode_head.")),
    "jpu_enc": (("neck.", "neck."), ("head.", "decode_head.")),
}
SAME = shlex.split(
    "fcn psp deeplabv3 deeplabv3plus uper nonlocal gc isa dm enc segformer segmenter setr_pup lightham knet_fcn "
)


def checkpoint(head, name, path, **more):
    state = {}
    for key, tensor in head.state_dict().items():
        ours, theirs = next(pair for pair in NAMES.get(name, (("", "decode_head."),)) if key.startswith(pair[0]))
        if theirs:
            state[theirs + key.removeprefix(ours)] = tensor
    state |= {"backbone.conv1.weight": torch.rand(4, 2, 3, 3)} | more
    torch.save({"meta": {"epoch": 3}, "state_dict": state}, path)
    return path


def made(name, seed, classes=5, strides=PYRAMID, **more):
    torch.manual_seed(seed)
    return make_head(name, (DIM,) * 4, strides, classes, **{"fpn_dim": WIDTH, **more}).eval()


@pytest.mark.parametrize("name", [*NAMES, *SAME])
def test_a_head_gives_the_logits_of_the_head_that_was_saved(name, tmp_path):
    source, head = made(name, 0), made(name, 1)
    if name == "lightham":  # its bases are in no file
        head.hamburger.ham.bases.copy_(source.hamburger.ham.bases)
    load_head(head, read_state(checkpoint(source, name, tmp_path / "w.pth")))
    maps = [torch.randn(1, DIM, 16 >> i, 16 >> i) for i in range(4)]
    with torch.no_grad():
        torch.testing.assert_close(head(maps, (32, 32)), source(maps, (32, 32)))


def test_the_neck_of_a_vit_and_the_auxiliary_head_come_too(tmp_path):
    source, head = (made("uper", seed, strides=(16,) * 4, auxiliary=True) for seed in (0, 1))
    neck = {}
    for key, tensor in source.head.neck.scales.state_dict().items():
        if key.startswith("0."):
            neck[f"neck.upsample_4x.{key[2:]}"] = tensor
        elif key.startswith("1."):
            neck[f"neck.upsample_2x.0.{key[2:]}"] = tensor
    second = {f"auxiliary_head.{k}": v for k, v in source.auxiliary.state_dict().items()}
    inner = {f"decode_head.{k}": v for k, v in source.head.state_dict().items() if not k.startswith("neck.")}
    torch.save(
        {"state_dict": inner | neck | second | {"backbone.conv1.weight": torch.rand(4, 2, 3, 3)}}, tmp_path / "w"
    )
    said = load_head(head, read_state(tmp_path / "w"))
    assert f"{len(source.state_dict())} tensors of the head" in said
    assert all(torch.equal(a, b) for a, b in zip(source.state_dict().values(), head.state_dict().values(), strict=True))


def test_another_number_of_classes_leaves_the_classifier_as_drawn_and_says_so(tmp_path):
    source, head = made("fcn", 0, classes=150), made("fcn", 1)
    before = head.conv_seg.weight.clone()
    said = load_head(head, read_state(checkpoint(source, "fcn", tmp_path / "w.pth")))
    assert said.endswith("of another number of classes, as drawn: conv_seg.weight, conv_seg.bias")
    assert torch.equal(head.conv_seg.weight, before)
    assert torch.equal(head.conv_cat.conv.weight, source.conv_cat.conv.weight)


@pytest.mark.parametrize(
    ("saved", "wanted", "more", "part"),
    [
        ("fcn", "psp", {}, "lacks psp_modules.0.1.conv.weight"),
        ("gc", "fcn", {}, "has layers that the head does not: gc_block"),
        ("fcn", "fcn", {"fpn_dim": 24}, "has convs.0.conv.weight of (16, 16, 3, 3), the head (24, 16, 3, 3)"),
    ],
)
def test_a_head_of_other_layers_is_refused(saved, wanted, more, part, tmp_path):
    state = read_state(checkpoint(made(saved, 0), saved, tmp_path / "w.pth"))
    with pytest.raises(BenchError) as caught:
        load_head(made(wanted, 1, **more), state)
    assert part in str(caught.value)
    assert "name its head with --head" in str(caught.value)


def test_a_file_without_a_head_or_with_nan_is_refused(tmp_path):
    torch.save({"state_dict": {"backbone.conv1.weight": torch.rand(4, 2, 3, 3)}}, tmp_path / "w.pth")
    with pytest.raises(BenchError, match="holds no decode_head"):
        load_head(made("fcn", 0), read_state(tmp_path / "w.pth"))
    broken = made("fcn", 0)
    with torch.no_grad():
        broken.conv_cat.conv.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(BenchError, match="holds NaN or infinity"):
        load_head(made("fcn", 0), read_state(checkpoint(broken, "fcn", tmp_path / "w.pth")))


def test_a_run_begins_with_the_heads_weights_by_their_content(tiles, tmp_path):
    plain = opened(tiles, tmp_path, head="fcn", freeze_backbone=True, features="stream")
    torch.manual_seed(7)
    source = make_head("fcn", (64,) * 4, (16,) * 4, 10, fpn_dim=16)
    shutil.copy(checkpoint(source, "fcn", tmp_path / "a.pth"), tmp_path / "b.pth")
    runs = [
        opened(tiles, tmp_path, head="fcn", freeze_backbone=True, features="stream", head_weights=str(tmp_path / name))
        for name in ("a.pth", "b.pth")
    ]
    assert len({plain.id, runs[0].id, runs[1].id}) == 2  # the path does not count
    assert torch.equal(runs[0].job.model.head.conv_cat.conv.weight, source.conv_cat.conv.weight)
    flags = ("--head", "fcn", "--head_weights", tmp_path / "a.pth", "--epochs", "1")
    done = segment(tiles, *flags, cwd=tmp_path, backbone=FROZEN)
    assert done.code == 0, done.err
    (text,) = [note["text"] for note in only_record(tmp_path / "results")["notes"] if note["code"] == "head_weights"]
    assert "tensors of the head from a.pth" in text
