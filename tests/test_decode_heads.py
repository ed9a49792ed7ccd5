"""The rows of `experiments/decode_heads*.toml`: every pair of head and backbone is built by the flags of its row, and two
rows go from plan to record.
"""

import hashlib
import re
from functools import cache

import pytest
import timm
import torch
from commands import REPOSITORY, call, only_record
from safetensors.torch import save_file
from segment_world import CARD
from suite_world import suite

from fgmae_bench.config.compose import compose
from fgmae_bench.config.experiments import load_experiment
from fgmae_bench.models.architectures import make_module
from fgmae_bench.models.contracts import resolve_contract
from fgmae_bench.models.heads import make_head
from fgmae_bench.models.taps import make_taps
from fgmae_bench.models.timm_weights import published_by_timm
from fgmae_bench.records import problem_of
from fgmae_bench.suite.command import argv
from fgmae_bench.suite.flags import commands_of

pytest_plugins = ("segment_world",)

FILES = {name: REPOSITORY / "experiments" / f"{name}.toml" for name in ("decode_heads", "decode_heads_fast")}
ROWS = load_experiment(FILES["decode_heads"]).runs
FITTED = "random forest on boxcar VV, VH, VV-VH"
# Code of libraries that makes tensors of its own, so that it does not run without numbers.
NUMBERS = {"mit_b2": "segmentation_models_pytorch", "mask2former": "transformers"}


def test_there_are_29_pairs_a_unet_and_a_forest_and_the_fast_file_has_the_same():
    fast = load_experiment(FILES["decode_heads_fast"]).runs
    assert len(ROWS) == len(fast) == 31
    pairs = [
        [(row.label, row.flags["head"], row.flags["model"], row.flags["weights"]) for row in rows]
        for rows in (ROWS, fast)
    ]
    assert pairs[0] == pairs[1]
    assert len({pair[1:] for pair in pairs[0]}) == 31


def test_optical_weights_of_every_row_are_on_a_hub_as_safetensors():
    """What timm would read from a pickle is refused: such a row could never run."""
    optical = {row.flags["model"] for row in ROWS if row.flags["weights"] == "imagenet"}
    assert len(optical) > 10
    assert all(published_by_timm(model).hf_hub_id for model in optical)


@cache
def maps_of(model, size):
    """Maps of two images, without numbers where the library allows it, and their strides."""
    with torch.device("cpu" if model.model in NUMBERS else "meta"):
        taps = make_taps(make_module(model, resolve_contract(model), 0.0)[0].eval(), size)
        return taps(torch.zeros(2, 2, size, size)), taps.strides


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("label", [row.label for row in ROWS if row.label != FITTED])
def test_every_row_gives_logits_of_each_pixel(name, label):
    (row,) = [row for row in load_experiment(FILES[name]).runs if row.label == label]
    (run,) = compose("segment", {**load_experiment(FILES[name]).common, **row.flags}, CARD)
    recipe, with_numbers = run.recipe, {run.recipe.head, run.model.model} & set(NUMBERS)
    for each in with_numbers | ({"maskformer"} & {recipe.head}):
        pytest.importorskip(NUMBERS.get(each, "transformers"))
    size = 64 if with_numbers else resolve_contract(run.model).size
    maps, strides = maps_of(run.model, size)
    more = {each: getattr(recipe, each) for each in ("fpn_dim", "norm", "neck", "auxiliary")}
    with torch.device("cpu" if with_numbers else "meta"), torch.inference_mode():
        dims = [level.shape[1] for level in maps]
        head = make_head(recipe.head, dims, strides, 8, dropout=recipe.head_dropout, **more).eval()
        assert head([torch.zeros(level.shape) for level in maps], (size, size)).shape == (2, 8, size, size)


def smallest(text, data):
    """A file of experiments with two steps on small tiles, all else as it stands."""
    small = {
        "data_path": f'"{data}"',
        "results_dir": '"results"',
        "cache_dir": '"cache"',
        "output_dir": '"runs"',
        "device": '"cpu"',
        "num_workers": 0,
        "panels": 0,
        "split": '"community"',
        "max_steps": 2,
        "eval_every": 1,
        "batch_size": 2,
    }
    for name, value in small.items():
        line = f"{name} = {value}\n"
        text, found = re.subn(rf"(?m)^{name} = .*\n", line, text)
        text = text if found else text.replace("[common]\n", f"[common]\n{line}")
    text = text.replace('"mobilenetv2_100", ', '"mobilenetv2_100", input_size = 64, ')
    return re.sub(r"warmup_steps = \d+", "warmup_steps = 0", text)


def put_in_cache(cache_folder, name):
    """Random tensors where huggingface_hub would keep timm's weights of a model."""
    source = published_by_timm(name)
    folder = cache_folder / f"models--{source.hf_hub_id.replace('/', '--')}"
    revision = hashlib.sha1(name.encode()).hexdigest()
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(revision)
    (folder / "snapshots" / revision).mkdir(parents=True)
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=source.num_classes)
    for parameter in model.parameters():
        parameter.data.add_(0.01 * torch.randn_like(parameter))
    save_file(model.state_dict(), folder / "snapshots" / revision / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "protocol"), [("decode_heads", "segmentation_finetune"), ("decode_heads_fast", "frozen_fcn")]
)
def test_a_row_goes_from_plan_to_record(name, protocol, tiles, tmp_path, monkeypatch):
    """By the command line that the suite makes of it."""
    label = "FCN, MobileNetV2"
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    put_in_cache(tmp_path / "hub", "mobilenetv2_100")
    copy = tmp_path / FILES[name].name
    copy.write_text(smallest(FILES[name].read_text(), tiles))
    monkeypatch.chdir(tmp_path)
    (command,) = commands_of({"files": [copy], "only": [label]})
    done = call(argv(command)[2].removeprefix("fgmae_bench."), *argv(command)[3:], cwd=tmp_path)
    assert done.code == 0, done.err
    record = only_record(tmp_path / "results")
    assert (record["protocol"], problem_of(record)) == (protocol, None)
    assert "1 recorded, 0 to do" in suite("plan", copy, "--only", label, cwd=tmp_path).out
