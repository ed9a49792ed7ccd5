"""`weights synth` and `weights inspect` as a user types them: what they write and show, and what they refuse."""

import hashlib

import pytest
import torch
from commands import call, listing, refused, said
from timm.models.vision_transformer import VisionTransformer

from fgmae_bench.checkpoints import synth as synth_layouts
from fgmae_bench.checkpoints.load import load_backbone
from fgmae_bench.weights import synth as synth_command
from fgmae_bench.weights.__main__ import COMMANDS

pytest_plugins = ("tiny_checkpoints",)


def weights_command(*flags, cwd):
    return call("weights.__main__", *flags, cwd=cwd)


def test_synth_inspect_and_load_at_the_published_size(tmp_path):
    made = weights_command("synth", "--model", "vit_small_patch16", "--out", "s.pth", "--half", cwd=tmp_path)
    assert made.code == 0
    assert made.out.startswith(
        "257 random tensors of vit_small_patch16 (synthetic, nothing learnt) written to s.pth, layout full, "
    )
    looked = weights_command("inspect", "s.pth", "--model", "vit_small_patch16", cwd=tmp_path)
    assert (looked.code, looked.err) == (0, "")
    lines = [" ".join(line.split()) for line in looked.out.splitlines()]
    for line in (
        "wrapper model",
        f"sha256 {hashlib.sha256((tmp_path / 's.pth').read_bytes()).hexdigest()}",
        "architecture vit_small_patch16, 2 channels",
        "other epoch: 99",
        "other args.synthetic: True",
        "backbone 12 blocks.*.attn.qkv.weight (1152, 384) float16",
        "hog 1 hog.gkern (16, 16) float16",
        "vit_small_patch16: 150 keys used, 107 dropped (decoder 104, hog 3), 0 missing",
        "note 150 tensors of float16 cast to float32",
    ):
        assert line in lines
    vit = VisionTransformer(
        img_size=224, patch_size=16, in_chans=2, embed_dim=384, depth=12, num_heads=6, num_classes=0
    )
    report = load_backbone(vit, tmp_path / "s.pth")
    assert (report.used, sum(report.dropped.values()), report.missing) == (150, 107, 0)
    other = refused("inspect", "s.pth", "--model", "vit_base_patch16", cwd=tmp_path, run=weights_command)
    assert "s.pth is 384 wide (vit_small_patch16), the model 768 (vit_base_patch16)" in other


REFUSALS = {
    "an output that exists": (("synth", "--model", "vit_small_patch16", "--out", "there"), "there exists; remove it"),
    "no output": (("synth", "--model", "vit_small_patch16"), "--out is missing"),
    "no model": (("synth", "--out", "w"), "--model is missing; choose from vit_small_patch16"),
    "an unknown model": (("synth", "--model", "vit_smal_patch16", "--out", "w"), "did you mean 'vit_small_patch16'?"),
    "an unknown layout": (
        ("synth", "--model", "vit_small_patch16", "--out", "w", "--layout", "ful"),
        "did you mean 'full'?",
    ),
    "an optimizer without place": (
        ("synth", "--model", "vit_small_patch16", "--out", "w", "--layout", "encoder", "--with-optimizer"),
        "has no optimizer",
    ),
    "an unknown command": (("inspekt", "w"), "did you mean 'inspect'?"),
    "a text to inspect": (("inspect", "there"), "there is a text file that begins 'text'"),
    "a ResNet for a ViT's file": (
        ("inspect", "w.pth", "--model", "resnet18"),
        "keys that the model does not know: cls_token",
    ),
    "an unknown model to inspect": (
        ("inspect", "w.pth", "--model", "vit_smal_patch16"),
        "did you mean 'vit_small_patch16'?",
    ),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_commands_refuse(tmp_path, weights, what):
    flags, line = REFUSALS[what]
    (tmp_path / "there").write_text("text")
    torch.save(weights, tmp_path / "w.pth")
    assert line in refused(*flags, cwd=tmp_path, run=weights_command)


def test_a_full_disk_leaves_no_part_of_a_file(tmp_path, monkeypatch):
    def fail(path, *_):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(synth_layouts.LAYOUTS, "encoder", fail)
    result = weights_command("synth", "--model", "vit_small_patch16", "--out", "w", "--layout", "encoder", cwd=tmp_path)
    assert "no space left while writing w" in said(result)
    assert listing(tmp_path) == {}


def test_the_command_knows_every_layout():
    assert list(synth_command.LAYOUTS) == list(synth_layouts.LAYOUTS)


def test_help_of_each_command_names_its_flags(tmp_path):
    assert {"list", "encoders", "fetch", "verify", "inspect", "convert", "synth"} == set(COMMANDS)
    for command in COMMANDS:
        result = weights_command(command, "--help", cwd=tmp_path)
        assert (result.code, result.err) == (0, "")
        assert "options:" in result.out
        assert command in weights_command("--help", cwd=tmp_path).out
