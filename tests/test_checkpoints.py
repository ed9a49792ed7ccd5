"""Checkpoints of every published layout load with each key accounted for; damaged and foreign files are refused whole."""

import argparse
import hashlib
import io
import json
import math
import pickle
import struct
import tarfile
import warnings
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from commands import call, listing, refused, said
from timm.models.vision_transformer import VisionTransformer

from fgmae_bench.backbones import FGMAE_ARCHITECTURES
from fgmae_bench.checkpoints import synth as synth_layouts
from fgmae_bench.checkpoints.load import account, load_backbone, resize_pos_embed
from fgmae_bench.checkpoints.reader import State, read_state
from fgmae_bench.checkpoints.shapes import ARCHITECTURES, VitShape, encoder_shapes, full_shapes
from fgmae_bench.checkpoints.synth import random_weights, sincos_positions, write_synthetic
from fgmae_bench.errors import BenchError
from fgmae_bench.weights import synth as synth_command
from fgmae_bench.weights.__main__ import COMMANDS

TINY = VitShape(dim=32, depth=2, heads=2, patch=4, size=16, decoder_dim=16, decoder_depth=1)
ENCODER, DECODER, HOG = len(encoder_shapes(TINY)), 1 + 1 + 2 + 12 + 2 + 2, 3
DROPPED = {"decoder": DECODER, "hog": HOG}


def tiny_vit(**changed):
    """A timm ViT of TINY's shape, weights from a seed of its own."""
    options = {"img_size": 16, "patch_size": 4, "in_chans": 2, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 0}
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
    return OrderedDict((name, torch.randn(shape, generator=generator)) for name, shape in full_shapes(TINY, hog=True).items())


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


@pytest.mark.parametrize(("name", "used"), [("vit_base_patch16", 150), ("vit_large_patch16", 294), ("vit_huge_patch14", 390)])
def test_key_accounts_of_the_larger_models(tmp_path, name, used):
    """Shapes only: every tensor is one zero, repeated, against a timm model without memory."""
    import timm

    tensors = {key: torch.zeros(1).expand(shape) for key, shape in full_shapes(ARCHITECTURES[name], hog=True).items()}
    state = State(
        path=tmp_path, format="", bytes=0, sha256="", wrapper="", prefix="", tensors=tensors, outside={}, plain={}, others={}, notes=()
    )
    with torch.device("meta"):
        vit = timm.create_model(FGMAE_ARCHITECTURES[name], in_chans=2, num_classes=0)
    _, report = account(vit, state)
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
    """Bytes of the reference classes' float32 tensors and two moments for each trained one; the hub lists these sizes to .1 %."""
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
        sizes[moments] = sum(t.numel() for entry in saved["optimizer"]["state"].values() for k, t in entry.items() if k != "step")
        assert list(saved) == ["model", "optimizer", "epoch", "scaler", "args"]
        assert isinstance(saved["args"], argparse.Namespace)
        assert load_backbone(tiny_vit(), path).used == ENCODER
    trained = sum(t.numel() for name, t in saved["model"].items() if not name.endswith("pos_embed") and not name.startswith("hog."))
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
    "detectron .pkl": lambda path, w: pickled(path, {"model": arrays(w), "__author__": "someone", "matching_heuristics": True}),
    "numpy, protocol 2": lambda path, w: pickled(path, {"state_dict": arrays(w)}, 2),
    "numpy, protocol 5": lambda path, w: pickled(path, arrays(w), 5),
    "numpy by column": lambda path, w: pickled(path, {name: np.asfortranarray(array) for name, array in arrays(w).items()}),
    "numpy big-endian": lambda path, w: pickled(path, {name: array.astype(">f4") for name, array in arrays(w).items()}),
    "nested names": lambda path, w: pickled(path, {"model": nested(arrays(w))}),
    "wrapped twice": lambda path, w: pickled(path, {"model": {"state_dict": w}, "args": argparse.Namespace(a=1)}),
    "tensors in a plain pickle": pickled,
    "parameters in a plain pickle": lambda path, w: pickled(path, {name: torch.nn.Parameter(tensor) for name, tensor in w.items()}, 2),
    "views of one storage": lambda path, w: pickled(path, {name: torch.stack([tensor, tensor], -1)[..., 1] for name, tensor in w.items()}),
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
    assert (report.used, report.dropped) == (ENCODER, {"head": 2, "momentum_encoder": ENCODER, "queue": 2, "projector": 1})
    assert torch.equal(features(vit), expected_features(weights))
    torch.save({"state_dict": state | {"norm.weight": torch.zeros(32)}}, tmp_path / "odd.pth")
    assert "1 keys that the model does not know: norm.weight" in failure(tmp_path / "odd.pth")


def test_the_teacher_is_read_and_the_student_named(tmp_path, weights):
    student = {name: tensor + 1 for name, tensor in weights.items()}
    torch.save({"student": renamed(student, "module.backbone."), "teacher": renamed(weights, "backbone.")}, tmp_path / "w.pth")
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
    assert "lacks 2 keys of the model: norm.weight, norm.bias (its final norm is fc_norm" in failure(tmp_path / "tuned.pth")
    vit = tiny_vit(global_pool="avg")
    assert load_backbone(vit, tmp_path / "tuned.pth").used == ENCODER
    assert torch.equal(vit.fc_norm.weight, extra["fc_norm.weight"])


def test_entries_that_are_no_tensors_are_dropped_by_name(tmp_path, weights):
    torch.save({"model": weights | {"version": "1.0", "steps": [1, 2]}}, tmp_path / "w.pth")
    assert load_backbone(tiny_vit(), tmp_path / "w.pth").dropped == DROPPED | {"no_tensor": 2}


# --- position embeddings of another grid


def bicubic_matrix(old, new):
    """(new, old) weights of cubic convolution with a = -.75, half-pixel centres and clamped borders, from Keys' formula."""
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
    assert f"pos_embed (1, {tokens}, 32) is no square grid behind 1 token(s)" in failure(tmp_path / "w.pth")


def test_pos_embed_without_change_of_size_is_kept_by_the_interpolation(tmp_path):
    embed = torch.randn(1, 10, 8)
    torch.testing.assert_close(resize_pos_embed(embed, (3, 3), 1, (1, 10, 8), tmp_path), embed)


# --- checkpoints that do not fit


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


MISFITS = {
    "width": ({"embed_dim": 48}, "is 32 wide, the model 48"),
    "patch": ({"patch_size": 8}, "has patches of 4 pixels, the model 8"),
    "channels": ({"in_chans": 3}, "takes 2 channels, the model 3"),
    "depth": ({"depth": 3}, "has 2 blocks, the model 3"),
    "MLP": ({"mlp_ratio": 2.0}, "blocks.0.mlp.fc1.weight is (128, 32), the model wants (64, 32)"),
}


@pytest.mark.parametrize("part", MISFITS)
def test_another_geometry_is_named(tmp_path, weights, part):
    changed, cause = MISFITS[part]
    torch.save({"model": weights}, tmp_path / "w.pth")
    assert cause in failure(tmp_path / "w.pth", tiny_vit(**changed))


def test_a_published_width_is_named_by_its_model(tmp_path):
    base = torch.zeros(768, 2, 16, 16)
    torch.save({"patch_embed.proj.weight": base}, tmp_path / "w.pth")
    vit = VisionTransformer(img_size=32, patch_size=16, in_chans=2, embed_dim=384, depth=1, num_heads=6, num_classes=0)
    assert "is 768 wide (vit_base_patch16), the model 384 (vit_small_patch16); give the checkpoint" in failure(tmp_path / "w.pth", vit)


EDITS = {
    "unknown": (
        lambda w: w | {f"odd.{k}": torch.zeros(1) for k in range(7)},
        "has 7 keys that the model does not know: odd.0, odd.1, odd.2, odd.3, odd.4, and 2 more",
    ),
    "last block": (lambda w: {k: v for k, v in w.items() if not k.startswith("blocks.1.")}, "has 1 blocks, the model 2"),
    "first block": (
        lambda w: {k: v for k, v in w.items() if not k.startswith("blocks.0.")},
        "lacks 12 keys of the model: blocks.0.norm1.weight",
    ),
    "one key": (lambda w: {k: v for k, v in w.items() if k != "cls_token"}, "lacks 1 keys of the model: cls_token"),
    "NaN": (lambda w: w | {"norm.bias": torch.full((32,), torch.nan)}, "norm.bias holds NaN or infinity"),
    "infinity": (lambda w: w | {"blocks.0.attn.proj.bias": torch.full((32,), -torch.inf)}, "blocks.0.attn.proj.bias holds NaN or infinity"),
    "overflow": (lambda w: w | {"norm.bias": torch.full((32,), 1e300, dtype=torch.float64)}, "norm.bias holds NaN or infinity"),
    "integers": (lambda w: w | {"norm.bias": torch.ones(32, dtype=torch.long)}, "norm.bias holds int64"),
    "empty": (lambda w: w | {"norm.bias": torch.zeros(0)}, "norm.bias is (0,), the model wants (32,)"),
    "no tensors": (lambda w: {"lr": 0.1, "names": list(w)}, "holds no tensors"),
    "a list": (list, "it holds list of 53 where a mapping"),
    "tuples as keys": (lambda w: {(1, 2): torch.zeros(1)}, "keys that are no text"),
    "a name twice": (lambda w: w | {"blocks": {"0": {"norm1": {"bias": torch.zeros(32)}}}}, "it holds blocks.0.norm1.bias twice"),
    "sparse": (lambda w: w | {"norm.bias": torch.ones(32).to_sparse()}, "it names torch."),
    "quantised": (lambda w: w | {"norm.bias": torch.quantize_per_tensor(torch.ones(32), 0.1, 0, torch.qint8)}, "it names torch."),
    "repeated": (
        lambda w: w | {"norm.bias": torch.zeros(1).expand(10**9)},
        "norm.bias (1000000000,) claims more values than the file holds",
    ),
    "escape codes": (lambda w: w | {"\x1b[31m\nred": torch.zeros(1)}, "?[31m?red"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, while it writes
@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_checkpoint_is_refused_by_cause(tmp_path, weights, edit):
    change, cause = EDITS[edit]
    torch.save(change(dict(weights)), tmp_path / "w.pth")
    assert cause in failure(tmp_path / "w.pth")


def test_numpy_arrays_of_other_things_are_refused(tmp_path):
    for name, array in {
        "objects": np.array([{}]),
        "text": np.array(["a"]),
        "times": np.array(["2020"], "M8[D]"),
        "records": np.zeros(1, "i4,f4"),
    }.items():
        pickled(tmp_path / name, {"model": {"norm.bias": array}})
        torch.save({"model": {"norm.bias": array}}, tmp_path / f"{name}.pth")
        for path in (tmp_path / name, tmp_path / f"{name}.pth"):
            assert "it holds numpy arrays of something other than numbers" in failure(path)


# --- files that are no checkpoints, or damaged


def zip_file(path, members, **options):
    with zipfile.ZipFile(path, "w", **options) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name twice
        for name, content in members:
            archive.writestr(name, content)


def tar_file(path):
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"), io.BytesIO(b""))


FOREIGN = {
    "not there": (lambda path: None, "is not there"),
    "folder": (lambda path: path.mkdir(), "is no file"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "page": (
        lambda path: path.write_text("<!DOCTYPE html>\n<html>Not found"),
        "is a text file that begins '<!DOCTYPE html>?<html>Not found'",
    ),
    "long text": (lambda path: path.write_text("ä" * 4000), "is a text file"),
    "text protocol": (lambda path: path.write_bytes(pickle.dumps({"a": 1}, protocol=0)), "is a text file"),
    "zeros": (lambda path: path.write_bytes(bytes(4096)), "is no checkpoint"),
    "noise": (lambda path: path.write_bytes(b"\x93NUMPY" + bytes(range(256))), "is no checkpoint"),
    "tar": (tar_file, "is a tar archive"),
    "zip": (lambda path: zip_file(path, [("a.txt", b"a")]), "it is a zip archive, not a checkpoint"),
    "TorchScript": (lambda path: zip_file(path, [("m/data.pkl", b"\x80\x02}."), ("m/constants.pkl", b"")]), "it is a TorchScript program"),
    "two names": (
        lambda path: zip_file(path, [("m/data.pkl", b"\x80\x02}."), ("M/DATA.PKL", b"")]),
        "it is a zip archive that holds a name twice",
    ),
    "bomb": (
        lambda path: zip_file(path, [("m/data.pkl", bytes(10**6))], compression=zipfile.ZIP_DEFLATED),
        "it is a compressed zip archive",
    ),
    "trailing bytes": (lambda path: path.write_bytes(pickle.dumps({"a": 1}) * 2), "bytes follow after its end"),
    "long header": (lambda path: path.write_bytes(struct.pack("<Q", 60) + b"{" * 100), "cannot be read as a checkpoint"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_files(tmp_path, kind):
    write, cause = FOREIGN[kind]
    write(tmp_path / "w.pth")
    assert cause in failure(tmp_path / "w.pth")


DAMAGEABLE = {
    "zip": lambda path, w: torch.save({"model": w, "args": argparse.Namespace(lr=1)}, path),
    "legacy": lambda path, w: legacy(path, {"model": w}),
    "pkl of arrays": lambda path, w: pickled(path, {"model": arrays(w)}),
    "pkl of tensors": lambda path, w: pickled(path, {"model": w}),
    "safetensors": lambda path, w: synth_layouts.LAYOUTS["safetensors"](path, w, False),
}


@pytest.mark.parametrize("kind", DAMAGEABLE)
def test_a_file_cut_at_a_hundred_random_places_is_refused(tmp_path, weights, kind):
    small = {name: tensor for name, tensor in weights.items() if tensor.numel() < 2000}
    whole, part = tmp_path / "whole", tmp_path / "part"
    DAMAGEABLE[kind](whole, small)
    assert len(read_state(whole).tensors) == len(small)
    content = whole.read_bytes()
    places = {1, 7, 8, 9, len(content) - 1, *np.random.default_rng(0).integers(1, len(content), 95).tolist()}
    for place in sorted(places):
        part.write_bytes(content[:place])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(BenchError, match=r"cannot be read as a checkpoint|is no checkpoint|text file|not read"):
                read_state(part)


def test_a_flipped_bit_in_a_zip_is_caught_by_its_checksums(tmp_path, weights):
    path = tmp_path / "w.pth"
    torch.save({"model": weights}, path)
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        spans = [(info.header_offset, info.file_size, archive.read(info)) for info in archive.infolist() if info.file_size]
    rng = np.random.default_rng(1)
    for offset, size, member in [spans[k] for k in rng.integers(len(spans), size=40)]:
        place = content.index(member, offset) + int(rng.integers(size))
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        failure(path)
    damaged = bytearray(content)
    damaged[content.index(weights["norm.bias"].numpy().tobytes()) + 1] ^= 1
    path.write_bytes(damaged)
    assert "is damaged: the checksum of its part w/data/" in failure(path)


@pytest.mark.parametrize("kind", ["safetensors", "legacy", "pkl of arrays"])
def test_a_flipped_bit_elsewhere_shows_in_the_sha256_alone(tmp_path, weights, kind):
    """These formats carry no checksum: the load succeeds with another weight. Only a known hash can tell."""
    path = tmp_path / "w"
    DAMAGEABLE[kind](path, weights)
    good = read_state(path)
    content = bytearray(path.read_bytes())
    content[bytes(content).index(weights["norm.bias"].numpy().tobytes()) + 1] ^= 1
    path.write_bytes(content)
    report = load_backbone(tiny_vit(), path)
    assert report.used == ENCODER
    assert report.sha256 != good.sha256


@pytest.mark.parametrize("kind", ["zip", "safetensors"])
def test_what_is_not_used_takes_no_memory(tmp_path, weights, kind):
    """128 MB of decoder stay in the file, also while the state is held: the process's own memory does not grow by them."""
    big = torch.zeros(32 * 2**20)
    if kind == "zip":
        torch.save({"model": weights | {"decoder_more": big}, "optimizer": {"state": {0: {"exp_avg": big}}}}, tmp_path / "w")
    else:
        synth_layouts.LAYOUTS[kind](tmp_path / "w", weights | {"decoder_more": big}, False)
    del big
    vit = tiny_vit()
    before = anonymous_bytes()
    state = read_state(tmp_path / "w")
    account(vit, state)
    assert anonymous_bytes() - before < 32 * 2**20


def anonymous_bytes():
    """Memory of this process that no file backs."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))
    except FileNotFoundError:
        pytest.skip("memory is measured on Linux only")


# --- commands


def weights_command(*flags, cwd):
    return call("weights.__main__", *flags, cwd=cwd)


def test_synth_inspect_and_load_at_the_published_size(tmp_path):
    made = weights_command("synth", "--model", "vit_small_patch16", "--out", "s.pth", "--half", cwd=tmp_path)
    assert made.code == 0
    assert made.out.startswith("257 random tensors of vit_small_patch16 (synthetic, nothing learnt) written to s.pth, layout full, ")
    looked = weights_command("inspect", "s.pth", "--model", "vit_small_patch16", cwd=tmp_path)
    assert (looked.code, looked.err) == (0, "")
    lines = [" ".join(line.split()) for line in looked.out.splitlines()]
    for line in (
        "wrapper model",
        f"sha256 {hashlib.sha256((tmp_path / 's.pth').read_bytes()).hexdigest()}",
        "architecture vit_small_patch16, 2 channels",
        "beside epoch: 99",
        "beside args.synthetic: True",
        "backbone 12 blocks.*.attn.qkv.weight (1152, 384) float16",
        "hog 1 hog.gkern (16, 16) float16",
        "vit_small_patch16: 150 keys used, 107 dropped (decoder 104, hog 3), 0 missing",
        "note 150 tensors of float16 cast to float32",
    ):
        assert line in lines
    vit = VisionTransformer(img_size=224, patch_size=16, in_chans=2, embed_dim=384, depth=12, num_heads=6, num_classes=0)
    report = load_backbone(vit, tmp_path / "s.pth")
    assert (report.used, sum(report.dropped.values()), report.missing) == (150, 107, 0)
    other = refused("inspect", "s.pth", "--model", "vit_base_patch16", cwd=tmp_path, run=weights_command)
    assert "s.pth is 384 wide (vit_small_patch16), the model 768 (vit_base_patch16)" in other


REFUSALS = {
    "an output that exists": (("synth", "--model", "vit_small_patch16", "--out", "there"), "there exists; remove it"),
    "no output": (("synth", "--model", "vit_small_patch16"), "--out is missing"),
    "no model": (("synth", "--out", "w"), "--model is missing; choose from vit_small_patch16"),
    "an unknown model": (("synth", "--model", "vit_smal_patch16", "--out", "w"), "did you mean 'vit_small_patch16'?"),
    "an unknown layout": (("synth", "--model", "vit_small_patch16", "--out", "w", "--layout", "ful"), "did you mean 'full'?"),
    "an optimizer without place": (
        ("synth", "--model", "vit_small_patch16", "--out", "w", "--layout", "encoder", "--with-optimizer"),
        "has no optimizer",
    ),
    "an unknown command": (("inspekt", "w"), "did you mean 'inspect'?"),
    "a text to inspect": (("inspect", "there"), "there is a text file that begins 'text'"),
    "a ResNet for a ViT's file": (("inspect", "w.pth", "--model", "resnet18"), "keys that the model does not know: cls_token"),
    "an unknown model to inspect": (("inspect", "w.pth", "--model", "vit_smal_patch16"), "did you mean 'vit_small_patch16'?"),
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
    assert {"list", "fetch", "verify", "inspect", "convert", "synth"} == set(COMMANDS)
    for command in COMMANDS:
        result = weights_command(command, "--help", cwd=tmp_path)
        assert (result.code, result.err) == (0, "")
        assert "options:" in result.out
        assert command in weights_command("--help", cwd=tmp_path).out
