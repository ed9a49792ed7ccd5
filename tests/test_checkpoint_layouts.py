"""Checkpoints of every published layout, container, wrapper and grid load with each key accounted for."""

import argparse
import hashlib
import json
import math

import numpy as np
import pytest
import torch
from tiny_checkpoints import (
    DECODER,
    DROPPED,
    ENCODER,
    TINY,
    arrays,
    expected_features,
    failure,
    features,
    legacy,
    nested,
    pickled,
    renamed,
    state_of,
    tiny_vit,
)

from fgmae_bench.checkpoints import synth as synth_layouts
from fgmae_bench.checkpoints.load import account, load_backbone, resize_pos_embed
from fgmae_bench.checkpoints.reader import read_state
from fgmae_bench.checkpoints.shapes import ARCHITECTURES, encoder_shapes, full_shapes
from fgmae_bench.checkpoints.synth import random_weights, sincos_positions, write_synthetic
from fgmae_bench.errors import BenchError
from fgmae_bench.models.build import FGMAE_ARCHITECTURES

pytest_plugins = ("tiny_checkpoints",)


# --- published layouts


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("layout", synth_layouts.LAYOUTS)
def test_each_published_layout_loads_with_every_key_accounted_for(tmp_path, layout, half):
    path = tmp_path / "weights.pth"
    keys = write_synthetic(path, TINY, layout, seed=5, half=half)
    vit, source = tiny_vit(), random_weights(TINY, layout, 5)
    report = load_backbone(vit, path)
    dropped = {"encoder": {}, "mae": {"decoder": DECODER}}.get(layout, DROPPED)
    assert (report.used, report.dropped, report.missing) == (ENCODER, dropped, 0)
    assert report.used + sum(report.dropped.values()) == keys
    assert report.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert report.notes == ((f"{ENCODER} tensors of float16 cast to float32",) if half else ())
    assert torch.equal(features(vit), expected_features({k: v.half() for k, v in source.items()} if half else source))


@pytest.mark.parametrize(
    ("name", "used"), [("vit_base_patch16", 150), ("vit_large_patch16", 294), ("vit_huge_patch14", 390)]
)
def test_key_accounts_of_the_larger_models(tmp_path, name, used):
    """Shapes only: every tensor is one zero, repeated, against a timm model without memory."""
    import timm

    tensors = {key: torch.zeros(1).expand(shape) for key, shape in full_shapes(ARCHITECTURES[name], hog=True).items()}
    with torch.device("meta"):
        vit = timm.create_model(FGMAE_ARCHITECTURES[name], in_chans=2, num_classes=0)
    _, report = account(vit, state_of(tmp_path, tensors))
    assert (report.used, sum(report.dropped.values()), report.missing, report.interpolated) == (used, 107, 0, False)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_derived_shapes_equal_those_of_the_reference_classes(shared_data, name):
    known = json.loads((shared_data / "fgmae_s1_state_dict_shapes.json").read_text())[f"mae_{name}"]
    derived = full_shapes(ARCHITECTURES[name], hog=True)
    assert {key: list(shape) for key, shape in derived.items()} == known


SIZES = {
    "vit_small_patch16": 564_063_728,
    "vit_base_patch16": 1_334_234_096,
    "vit_large_patch16": 3_944_652_784,
    "vit_huge_patch14": 7_875_023_856,
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_weights_and_moments_add_up_to_the_published_files(name):
    """Bytes of the reference classes' float32 tensors and two moments for each trained one; the hub lists these sizes
    to .1 %.
    """
    shapes = full_shapes(ARCHITECTURES[name], hog=True)
    sizes = {key: math.prod(shape) for key, shape in shapes.items()}
    assert 4 * sum(size * (1 if key in synth_layouts.FIXED else 3) for key, size in sizes.items()) == SIZES[name]


def test_an_optimizer_with_moments_triples_the_trained_part(tmp_path):
    """Published files hold two moments for each trained tensor."""
    sizes = {}
    for moments in (False, True):
        path = tmp_path / f"{moments}.pth"
        write_synthetic(path, TINY, "full", with_optimizer=moments)
        saved = torch.load(path, weights_only=False)  # our own file
        sizes[moments] = sum(
            t.numel() for entry in saved["optimizer"]["state"].values() for k, t in entry.items() if k != "step"
        )
        assert list(saved) == ["model", "optimizer", "epoch", "scaler", "args"]
        assert isinstance(saved["args"], argparse.Namespace)
        assert load_backbone(tiny_vit(), path).used == ENCODER
    trained = sum(
        t.numel()
        for name, t in saved["model"].items()
        if not name.endswith("pos_embed") and not name.startswith("hog.")
    )
    assert sizes == {False: 0, True: 2 * trained}


def test_synthetic_files_depend_on_the_seed_alone(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_synthetic(tmp_path / name, TINY, "encoder", seed=seed)
    a, b, c = (read_state(tmp_path / name).tensors for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["blocks.1.mlp.fc1.weight"], c["blocks.1.mlp.fc1.weight"])


def test_positions_are_those_of_mae():
    """Entry by entry from the formula: column in the first half, row in the second, sine before cosine."""
    table = sincos_positions(8, 3)[0]
    row, column = 1, 2
    angles = [place / 10_000 ** (k / 2) for place in (column, row) for k in (0, 1)]
    wanted = [f(angles[2 * half + k]) for half in (0, 1) for f in (np.sin, np.cos) for k in (0, 1)]
    np.testing.assert_allclose(table[1 + row * 3 + column].numpy(), wanted, atol=1e-6)
    assert not table[0].any()


# --- other containers and wrappers


WRITERS = {
    "torch legacy": lambda path, w: legacy(path, {"model": w, "args": argparse.Namespace(lr=0.1)}),
    "torch zip with numpy": lambda path, w: torch.save({"model": arrays(w), "epoch": np.float64(3)}, path),
    "torch zip, protocol 3": lambda path, w: torch.save({"model": w}, path, pickle_protocol=3),
    "torch zip, protocol 4": lambda path, w: torch.save(
        {"model": w, "args": argparse.Namespace(lr=0.1)}, path, pickle_protocol=4
    ),
    "torch zip, protocol 5": lambda path, w: torch.save(w, path, pickle_protocol=5),
    "torch zip of parameters, protocol 4": lambda path, w: torch.save(
        {name: torch.nn.Parameter(tensor) for name, tensor in w.items()}, path, pickle_protocol=4
    ),
    "torch zip with numpy, protocol 5": lambda path, w: torch.save(
        {"model": arrays(w), "epoch": np.float64(3)}, path, pickle_protocol=5
    ),
    "torch zip of views, protocol 4": lambda path, w: torch.save(
        {name: torch.stack([tensor, tensor], -1)[..., 1] for name, tensor in w.items()}, path, pickle_protocol=4
    ),
    "detectron .pkl": lambda path, w: pickled(
        path, {"model": arrays(w), "__author__": "someone", "matching_heuristics": True}
    ),
    "numpy, protocol 2": lambda path, w: pickled(path, {"state_dict": arrays(w)}, 2),
    "numpy, protocol 5": lambda path, w: pickled(path, arrays(w), 5),
    "numpy by column": lambda path, w: pickled(
        path, {name: np.asfortranarray(array) for name, array in arrays(w).items()}
    ),
    "numpy big-endian": lambda path, w: pickled(path, {name: array.astype(">f4") for name, array in arrays(w).items()}),
    "nested names": lambda path, w: pickled(path, {"model": nested(arrays(w))}),
    "wrapped twice": lambda path, w: pickled(path, {"model": {"state_dict": w}, "args": argparse.Namespace(a=1)}),
    "tensors in a plain pickle": pickled,
    "parameters in a plain pickle": lambda path, w: pickled(
        path, {name: torch.nn.Parameter(tensor) for name, tensor in w.items()}, 2
    ),
    "views of one storage": lambda path, w: pickled(
        path, {name: torch.stack([tensor, tensor], -1)[..., 1] for name, tensor in w.items()}
    ),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_containers(tmp_path, weights, writer):
    """The ending says nothing: all are named .bin."""
    path = tmp_path / "weights.bin"
    WRITERS[writer](path, weights)
    vit = tiny_vit()
    report = load_backbone(vit, path)
    assert (report.used, report.dropped) == (ENCODER, DROPPED)
    assert torch.equal(features(vit), expected_features(weights))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_zip_of_each_protocol_holds_every_kind_of_number(tmp_path, protocol):
    """torch's own `weights_only` reads protocols 2 and 3; the bits are those of what was saved."""
    kinds = (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    )
    saved = {str(kind): torch.arange(6).reshape(2, 3).to(kind) for kind in kinds} | {
        "none": torch.zeros(0, 4),
        "one": torch.tensor(3.0),
    }
    torch.save(saved | {"same": saved["one"]}, tmp_path / "w.pth", pickle_protocol=protocol)
    read = read_state(tmp_path / "w.pth").tensors
    assert list(read) == [*saved, "same"]
    for name, tensor in saved.items():
        assert (read[name].dtype, read[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(read[name], tensor)


def test_what_is_written_to_a_tensor_of_a_mapped_zip_stays_out_of_the_file(tmp_path):
    torch.save({"a": torch.ones(4)}, tmp_path / "w.pth", pickle_protocol=4)
    before = (tmp_path / "w.pth").read_bytes()
    read_state(tmp_path / "w.pth").tensors["a"].zero_()
    assert (tmp_path / "w.pth").read_bytes() == before


def test_a_zip_that_calls_itself_safetensors_is_read_by_content(tmp_path, weights):
    torch.save(weights, tmp_path / "weights.safetensors")
    assert read_state(tmp_path / "weights.safetensors").format == "torch zip"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_are_cast_and_counted(tmp_path, weights, dtype):
    torch.save({name: tensor.to(dtype) for name, tensor in weights.items()}, tmp_path / "w.pth")
    vit = tiny_vit()
    report = load_backbone(vit, tmp_path / "w.pth")
    assert report.notes == (f"{ENCODER} tensors of {str(dtype).removeprefix('torch.')} cast to float32",)
    assert torch.equal(features(vit), expected_features({name: tensor.to(dtype) for name, tensor in weights.items()}))


PREFIXED = (
    "module.",
    "backbone.",
    "encoder.",
    "base_encoder.",
    "module.base_encoder.",
    "module.backbone.",
    "module.encoder_q.",
    "model.encoder.",
    "model.",
)


@pytest.mark.parametrize("prefix", PREFIXED)
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "model_state_dict", "teacher", "student", "network"])
def test_wrappers_and_prefixes(tmp_path, weights, wrapper, prefix):
    inner = renamed(weights, prefix)
    torch.save({wrapper: inner, "epoch": 1} if wrapper else inner, tmp_path / "w.pth")
    state = read_state(tmp_path / "w.pth")
    assert (state.wrapper, state.prefix) == (wrapper or "", prefix)
    assert list(state.tensors) == list(weights)


def test_contrastive_checkpoint_keeps_the_query_encoder_only(tmp_path, weights):
    """MoCo's layout: keys beside the prefix are dropped by name, or unknown."""
    encoder = {name: tensor for name, tensor in weights.items() if name in encoder_shapes(TINY)}
    others = {
        "module.queue": torch.zeros(4, 8),
        "module.queue_ptr": torch.zeros(1, dtype=torch.long),
        "module.predictor.0.weight": torch.zeros(2, 2),
    }
    momentum = renamed({name: tensor + 1 for name, tensor in encoder.items()}, "module.momentum_encoder.")
    head = {"module.base_encoder.head.0.weight": torch.zeros(8, 8), "module.base_encoder.fc.bias": torch.zeros(8)}
    state = renamed(encoder, "module.base_encoder.") | momentum | head | others
    torch.save({"epoch": 3, "arch": "vit", "state_dict": state}, tmp_path / "w.pth")
    vit = tiny_vit()
    report = load_backbone(vit, tmp_path / "w.pth")
    assert (report.used, report.dropped) == (
        ENCODER,
        {"head": 2, "momentum_encoder": ENCODER, "queue": 2, "projector": 1},
    )
    assert torch.equal(features(vit), expected_features(weights))
    torch.save({"state_dict": state | {"norm.weight": torch.zeros(32)}}, tmp_path / "odd.pth")
    assert "1 keys that the model does not know: norm.weight" in failure(tmp_path / "odd.pth")


def test_the_teacher_is_read_and_the_student_named(tmp_path, weights):
    student = {name: tensor + 1 for name, tensor in weights.items()}
    torch.save(
        {"student": renamed(student, "module.backbone."), "teacher": renamed(weights, "backbone.")}, tmp_path / "w.pth"
    )
    vit = tiny_vit()
    assert load_backbone(vit, tmp_path / "w.pth").notes == ("'teacher' is read, not student",)
    assert torch.equal(features(vit), expected_features(weights))


def test_the_models_own_head_stays_and_is_counted_as_missing(tmp_path, weights):
    torch.save(weights | {"head.weight": torch.ones(3, 32), "head.bias": torch.ones(3)}, tmp_path / "w.pth")
    vit = tiny_vit(num_classes=3)
    before = vit.head.weight.clone()
    report = load_backbone(vit, tmp_path / "w.pth")
    assert (report.missing, report.dropped["head"]) == (2, 2)
    assert torch.equal(vit.head.weight, before)


def test_the_norm_of_a_mean_pooled_head_is_dropped_or_used(tmp_path, weights):
    extra = {"fc_norm.weight": torch.full((32,), 2.0), "fc_norm.bias": torch.zeros(32)}
    torch.save(weights | extra, tmp_path / "both.pth")
    assert load_backbone(tiny_vit(), tmp_path / "both.pth").dropped["head"] == 2
    tuned = {name: tensor for name, tensor in (weights | extra).items() if not name.startswith("norm.")}
    torch.save(tuned, tmp_path / "tuned.pth")
    assert "lacks 2 keys of the model: norm.weight, norm.bias (its final norm is fc_norm" in failure(
        tmp_path / "tuned.pth"
    )
    vit = tiny_vit(global_pool="avg")
    assert load_backbone(vit, tmp_path / "tuned.pth").used == ENCODER
    assert torch.equal(vit.fc_norm.weight, extra["fc_norm.weight"])


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("value", [[0.0] * 32, 0.5, None])
def test_a_key_of_the_model_that_is_no_tensor_is_named(tmp_path, weights, value, prefix):
    torch.save({"model": renamed(weights, prefix) | {f"{prefix}norm.bias": value}}, tmp_path / "w.pth")
    assert "holds 1 keys of the model not as tensors: norm.bias; where these are weights, make tensors" in failure(
        tmp_path / "w.pth"
    )


def test_an_optional_key_that_is_no_tensor_is_an_error_and_no_default(tmp_path, weights):
    """A file may lack these keys: without the check the module would keep its own numbers and say nothing."""
    vit = tiny_vit(global_pool="avg")
    tuned = {name: tensor for name, tensor in weights.items() if not name.startswith("norm.")}
    torch.save(tuned | {"fc_norm.weight": [2.0] * 32, "fc_norm.bias": [0.0] * 32}, tmp_path / "w.pth")
    with pytest.raises(BenchError, match=r"holds 2 keys of the model not as tensors: fc_norm\.weight, fc_norm\.bias"):
        account(vit, read_state(tmp_path / "w.pth"), r"fc_norm\..*")


def test_an_optimizer_beside_the_keys_is_dropped_by_rule(tmp_path, weights):
    optimizer = {"state": {0: {"step": 5.0, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}
    torch.save({**weights, "optimizer": optimizer, "epoch": 3}, tmp_path / "w.pth")
    assert load_backbone(tiny_vit(), tmp_path / "w.pth").dropped == DROPPED | {"training": 1, "no_tensor": 3}


def test_entries_that_are_no_tensors_are_dropped_by_name(tmp_path, weights):
    torch.save({"model": weights | {"version": "1.0", "steps": [1, 2]}}, tmp_path / "w.pth")
    assert load_backbone(tiny_vit(), tmp_path / "w.pth").dropped == DROPPED | {"no_tensor": 2}


# --- position embeddings of another grid


def bicubic_matrix(old, new):
    """(new, old) weights of cubic convolution with a = -.75, half-pixel centres and clamped borders, from Keys'
    formula.
    """
    a, matrix = -0.75, np.zeros((new, old))
    for place in range(new):
        centre = (place + 0.5) * old / new - 0.5
        for tap in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            x = abs(centre - tap)
            near, far = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
            matrix[place, min(max(tap, 0), old - 1)] += near if x <= 1 else far if x < 2 else 0
    return matrix


@pytest.mark.parametrize("size", [8, 12, 20, 32])
def test_pos_embed_of_another_grid_is_interpolated_bicubically(tmp_path, weights, size):
    torch.save({"model": weights}, tmp_path / "w.pth")
    vit = tiny_vit(img_size=size)
    report = load_backbone(vit, tmp_path / "w.pth")
    assert report.interpolated
    assert report.notes == (f"pos_embed interpolated from 17 to {1 + (size // 4) ** 2} tokens (bicubic)",)
    grid = weights["pos_embed"][0, 1:].double().numpy().reshape(4, 4, 32)
    matrix = bicubic_matrix(4, size // 4)
    wanted = np.einsum("yi,xj,ijd->yxd", matrix, matrix, grid).reshape(-1, 32)
    np.testing.assert_allclose(vit.pos_embed[0, 1:].detach().numpy(), wanted, atol=1e-5)
    assert torch.equal(vit.pos_embed[0, 0], weights["pos_embed"][0, 0])


@pytest.mark.parametrize("tokens", [1, 16, 18])
def test_pos_embed_that_is_no_square_is_refused(tmp_path, weights, tokens):
    torch.save(weights | {"pos_embed": torch.zeros(1, tokens, 32)}, tmp_path / "w.pth")
    assert f"pos_embed (1, {tokens}, 32) is not a square grid behind 1 token(s)" in failure(tmp_path / "w.pth")


def test_pos_embed_without_change_of_size_is_kept_by_the_interpolation(tmp_path):
    embed = torch.randn(1, 10, 8)
    torch.testing.assert_close(resize_pos_embed(embed, (3, 3), 1, (1, 10, 8), tmp_path), embed)
