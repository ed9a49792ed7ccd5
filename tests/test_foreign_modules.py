"""Factories and modules of the user that raise, or return what is no features: one line with the error's file and line."""

import re
import sys

import pytest
import torch
from commands import FOLDERS, call, shared_world
from torch import nn

import fgmae_bench
from fgmae_bench.config.encoders import ENCODERS, Encoder, encoders
from fgmae_bench.config.run import Model
from fgmae_bench.errors import BenchError
from fgmae_bench.models.build import build_backbone, wrap_module
from fgmae_bench.models.pooling import PooledMap
from fgmae_bench.models.taps import OneMap

FACTORIES = """
import json
import torch
from torch import nn

def key(): return {}["width"]
def value(): return int("six")
def kind(): return len(7)
def inside(): return json.loads("{")
def leaves(): raise SystemExit(3)
def wants(width, *, depth): return nn.Identity()
def nothing(): pass
def number(): return 7
class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
class Raising(nn.Module):
    def __init__(self, error=KeyError):
        super().__init__()
        self.conv, self.error = nn.Conv2d(2, 4, 8, 8), error
    def forward(self, x):
        raise self.error("of forward")
def raising(): return Raising()
class Stubborn(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 8, 8)
    def init_weights(self, mode): pass
    def forward(self, x): return self.conv(x)
"""
LINES = {text: number for number, text in enumerate(FACTORIES.splitlines(), 1)}


def line_of(start):
    return next(number for text, number in LINES.items() if text.strip().startswith(start))


@pytest.fixture
def desk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("foreign_models", "foreign_broken", "foreign_lacking", "foreign_typo"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "foreign_models.py").write_text(FACTORIES)
    (tmp_path / "foreign_broken.py").write_text("import torch\nwidth = {}['width']\n")
    (tmp_path / "foreign_lacking.py").write_text("import no_such_package_at_all\n")
    (tmp_path / "foreign_typo.py").write_text("def make(:\n")
    return tmp_path


@pytest.mark.parametrize(
    ("spec", "message", "line"),
    [
        ("foreign_models:key", "failed (KeyError: 'width', {file}:{line}); correct the factory", "def key"),
        ("foreign_models:value", "failed (ValueError: invalid literal for int() with base 10: 'six', {file}:{line})", "def value"),
        ("foreign_models:kind", "failed (TypeError: object of type 'int' has no len(), {file}:{line})", "def kind"),
        ("foreign_models:inside", "failed (JSONDecodeError: Expecting property name", "def inside"),
        ("foreign_models:leaves", "failed (SystemExit: 3, {file}:{line})", "def leaves"),
        ("foreign_models:wants", "cannot be called without arguments (missing a required argument: 'width'); give each", None),
        ("foreign_models:Net", "cannot be called without arguments (missing a required argument: 'width'); give each", None),
        ("foreign_models:nothing", "made NoneType, not an nn.Module; correct the factory in", None),
        ("foreign_models:number", "made int, not an nn.Module", None),
        ("builtins:dict", "made dict, not an nn.Module; correct the factory in builtins", None),
        ("math:pi", "made float, not an nn.Module", None),
        ("math:cos", "cannot be called without arguments", None),
        ("foreign_broken:make", "foreign_broken cannot be imported (KeyError: 'width', foreign_broken.py:2)", None),
        ("foreign_lacking:make", "cannot be imported (ModuleNotFoundError: No module named 'no_such_package_at_all', foreign_lacking.py:1)", None),
        ("foreign_typo:make", "cannot be imported (SyntaxError: invalid syntax (foreign_typo.py, line 1))", None),
        ("foreign_models:absent", "module 'foreign_models' has no attribute 'absent'; give module:factory", None),
        ("foreign_models.sub:make", "No module named 'foreign_models.sub'", None),
        ("foreign_models:raising", "does not take (B, 2, 32, 32) (KeyError: 'of forward', {file}:{line})", "raise self.error"),
        ("foreign_models:Stubborn", "cannot be drawn again (TypeError: Stubborn.init_weights() missing 1 required", None),
    ],
    ids=lambda value: value.partition(":")[2] if isinstance(value, str) and re.fullmatch(r"[\w.]+:\w+", value) else "",
)  # fmt: skip
def test_a_factory_that_gives_no_backbone_is_one_line(desk, spec, message, line):
    expected = message.replace("{file}", "foreign_models.py").replace("{line}", str(line_of(line)) if line else "")
    with pytest.raises(BenchError) as refusal:
        build_backbone(Model(model=spec, weights="random", input_size=32, normalizer="zscore"), 0)
    assert expected in str(refusal.value)
    if line:  # also of an error deep inside a library
        assert f"foreign_models.py:{line_of(line)})" in str(refusal.value)


class Returning(nn.Module):
    """A module that returns what `make` makes of its images."""

    def __init__(self, make):
        super().__init__()
        self.conv, self.make = nn.Conv2d(2, 4, 8, 8), make

    def forward(self, images):
        return self.make(self.conv(images))


RETURNED = {
    "tuple": (lambda x: (x, x), r"returned tuple; return \(B, D\) features or a \(B, D, h, w\) map"),
    "dict": (lambda x: {"x": x}, "returned dict; "),
    "None": (lambda x: None, "returned NoneType; "),
    "numpy": (lambda x: x.detach().numpy(), "returned ndarray; "),
    "5-D": (lambda x: x[..., None], r"returned a tensor of shape \(2, 4, 4, 4, 1\); "),
    "3-D": (lambda x: x.flatten(2), r"returned a tensor of shape \(2, 4, 16\); "),
    "1-D": (lambda x: x.mean((1, 2, 3)), r"returned a tensor of shape \(2,\); "),
    "0-D": (lambda x: x.mean(), r"returned a tensor of shape \(\); "),
    "no features": (lambda x: x.flatten(1)[:, :0], r"returned a tensor of shape \(2, 0\); "),
    "empty map": (lambda x: x[..., :0], r"returned a tensor of shape \(2, 4, 4, 0\); "),
    "one for all": (lambda x: x.mean((2, 3)).mean(0, keepdim=True), r"of shape \(1, 4\) for 2 images; .*, one row an image"),
    "none": (lambda x: x[:0], r"of shape \(0, 4, 4, 4\) for 2 images; "),
    "twice": (lambda x: torch.cat([x, x]), r"of shape \(4, 4, 4, 4\) for 2 images; "),
    "integer": (lambda x: x.mean((2, 3)).long(), "returned numbers of type torch.int64; return floating-point numbers"),
    "integer map": (lambda x: x.int(), "returned numbers of type torch.int32; "),
    "boolean": (lambda x: x.mean((2, 3)) > 0, "returned numbers of type torch.bool; "),
    "complex": (lambda x: torch.fft.fft(x.mean((2, 3))), "returned numbers of type torch.complex64; "),
    "ValueError": (lambda x: int("x"), r"does not take \(B, 2, 32, 32\) \(ValueError: .*test_foreign_modules.py:\d+\)"),
    "IndexError": (lambda x: x[7], "does not take .*IndexError: index 7 is out of bounds"),
    "TypeError": (lambda x: len(7), r"does not take .*TypeError: object of type 'int' has no len\(\), .*_modules.py:\d+"),
}  # fmt: skip


@pytest.mark.parametrize("kind", RETURNED)
def test_a_module_that_returns_no_features_is_refused(kind):
    make, message = RETURNED[kind]
    with pytest.raises(BenchError, match=message):
        wrap_module(Returning(make), Model(model="mine", weights="module", input_size=32, normalizer="zscore"))


@pytest.mark.parametrize("kind", ["tuple", "5-D", "twice", "integer map", "empty map"])
def test_maps_for_segmentation_are_held_to_the_same(kind):
    make, message = RETURNED[kind]
    wanted = re.sub("for 2 images", "for 1 images", message.partition(";")[0])
    wanted = wanted.replace(r"\(2,", r"\(1,").replace(r"\(4, 4,", r"\(2, 4,")
    with pytest.raises(BenchError, match=wanted):
        OneMap(Returning(make), 32)


def test_a_single_image_that_loses_its_row_is_refused():
    """The last batch of a dataset may hold one image: squeeze() makes a vector of it, which no later line would name."""
    module = Returning(lambda x: x.mean((2, 3)).squeeze())
    message = r"Returning returned a tensor of shape \(4,\); return \(B, D\)"
    with pytest.raises(BenchError, match=message):
        wrap_module(module, Model(model="mine", weights="module", input_size=32, normalizer="zscore"))


def test_what_was_taken_before_still_is():
    for make, shape in (
        (lambda x: x, (3, 4)),
        (lambda x: x.flatten(1).double(), (3, 64)),
        (lambda x: x.half(), (3, 4)),
    ):
        assert PooledMap(Returning(make))(torch.rand(3, 2, 32, 32)).shape == shape


def test_evaluate_and_the_command_end_in_one_line(desk):
    raising = Returning(lambda x: {}["of forward"])
    flags = {"data_path": shared_world(5), "device": "cpu", "input_size": 32}
    with pytest.raises(BenchError, match=r"does not take .*KeyError: 'of forward', .*test_foreign_modules.py:\d+"):
        fgmae_bench.evaluate(raising, "eurosat", name="mine", **flags)
    words = ("--dataset", "eurosat", "--data_path", shared_world(5), "--input_size", 32, "--device", "cpu", *FOLDERS)
    done = call("linear", *words, "--model", "foreign_models:key", cwd=desk)
    last = done.err.splitlines()[-1]
    expected = f"error: --model foreign_models:key failed (KeyError: 'width', foreign_models.py:{line_of('def key')}); "
    assert (done.code, last) == (2, expected + "correct the factory")
    assert "Traceback" not in done.err


def test_a_copy_that_raises_anything_is_one_line(desk):
    class Single(nn.Conv2d):
        def __deepcopy__(self, memo):
            raise ValueError("there is one of me")

    flags = {"data_path": shared_world(5), "device": "cpu", "input_size": 32}
    with pytest.raises(BenchError, match=r"Single cannot be copied \(ValueError: there is one of me, .*\); detach"):
        fgmae_bench.evaluate(Single(2, 4, 8, 8), "eurosat", "finetune", name="mine", **flags)


def broken(entry, size, patch):
    raise LookupError("no such variant")


def a_list(entry, size, patch):
    return []


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "broken",
            r"the encoder mine-1 cannot be built \(LookupError: no such variant, .*test_foreign_modules.py:\d+\)",
        ),
        ("a_list", "the encoder mine-1: test_foreign_modules:a_list made list; let it return a fgmae_bench.*Adapter"),
    ],
)
def test_an_encoder_of_a_package_is_held_to_the_same(code, message, monkeypatch):
    entry = Encoder(
        model="mine-1",
        weights="random",
        carrier="mine",
        dim=4,
        params=4,
        patches=(1,),
        maps="one map",
        pooling="mean",
        pooling_of_origin="mean",
        code=f"test_foreign_modules:{code}",
    )
    monkeypatch.setitem(ENCODERS, "mine-1", entry)
    encoders.cache_clear()
    try:
        with pytest.raises(BenchError, match=message):
            build_backbone(Model(model="mine-1", weights="random", input_size=32), 0)
    finally:
        monkeypatch.delitem(ENCODERS, "mine-1")
        encoders.cache_clear()


@pytest.mark.parametrize(
    ("name", "closest"),
    [
        ("sar-hub-resnet34", "sar-hub-resnet"),
        ("sarmae-vit-b1", "sarmae-vit-b16"),
        ("galileo-nan", "galileo-nano"),
        ("reben-vit-b16", "reben-vit-b8"),
        ("resnet5o", "resnet50"),
    ],
)
@pytest.mark.parametrize(
    "weights", [(), ("--weights", "fgmae"), ("--weights", "random")], ids=["own", "named", "random"]
)
def test_a_misspelt_encoder_is_the_fault_whatever_its_weights(name, closest, weights, tmp_path):
    """Of a model that nobody knows no weights are looked for, and no data."""
    done = call("linear", "--dataset", "eurosat", "--data_path", "absent", "--model", name, *weights, cwd=tmp_path)
    assert done.code == 2
    assert done.err.startswith(f"error: unknown model '{name}'; did you mean '{closest}")
    assert "sar-hub-resnet18" in done.err
    assert "module:factory" in done.err
