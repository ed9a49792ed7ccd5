"""A new head, optimiser or schedule is its code and one line of a table: flags, protocols, plans, records and the Python
API follow. Tried on a copy of the package.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest
from commands import REPOSITORY
from segment_world import FROZEN

from fgmae_bench.config.names import ENGINES, HEADS, NORMS, OPTIMIZERS, PROBES, code_of, listed
from fgmae_bench.errors import BenchError

pytest_plugins = ("segment_world",)

HEAD = '''"""The last map, one linear layer, the nearest value."""

from torch import nn
from torch.nn.functional import interpolate


class Nearest(nn.Module):
    def __init__(self, dims, strides, num_classes, *, fpn_dim, norm):
        super().__init__()
        self.classify = nn.Conv2d(dims[-1], num_classes, 1)

    def forward(self, maps, size):
        return interpolate(self.classify(maps[-1]), size=size)
'''
OPTIMIZER = """

def plain(model, recipe):
    return torch.optim.SGD(param_groups(model, weight_decay=0.0, layer_decay=1.0, decay_all=True), lr=0.0)
"""
SCHEDULE = """
def level(progress, *, peak, floor, warmup, total):
    return peak


SCHEDULES = {"""
EXPERIMENT = """
title = "Test"
module = "segment"
protocol = "{protocol}"
[common]
dataset = "dfc2020"
freeze_backbone = true
model = "test_vit"
weights = "random"
[layout]
columns = ["run", "miou"]
[[runs]]
label = "a"
flags = {{ head = "nearest" }}
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A folder with a copy of the package that has a head, an optimiser and a schedule more."""
    root = tmp_path_factory.mktemp("package")
    shutil.copytree(
        REPOSITORY / "fgmae_bench", root / "fgmae_bench", ignore=shutil.ignore_patterns("__pycache__", "_cards")
    )
    (root / "datasets").symlink_to(REPOSITORY / "datasets")
    inside = root / "fgmae_bench"
    (inside / "models" / "heads" / "nearest.py").write_text(HEAD)
    with open(inside / "train" / "optim.py", "a") as optim:
        optim.write(OPTIMIZER)
    schedules = inside / "config" / "schedules.py"
    before, after = schedules.read_text().split("\nSCHEDULES = {")
    schedules.write_text(f'{before}{SCHEDULE}"level": level, {after}')
    names = inside / "config" / "names.py"
    text = names.read_text()
    for table, line in (
        ("HEADS", '"nearest": Choice("fgmae_bench.models.heads.nearest:Nearest", "nearest values"),'),
        ("OPTIMIZERS", '"plain": Choice("fgmae_bench.train.optim:plain", "plain SGD"),'),
    ):
        assert f"\n{table} = {{\n" in text
        text = text.replace(f"\n{table} = {{\n", f"\n{table} = {{\n    {line}\n")
    names.write_text(text)
    return root


def run(package, *words, cwd):
    environment = {**os.environ, "PYTHONPATH": str(package)}
    return subprocess.run(
        [sys.executable, *map(str, words)], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_a_head_of_one_file_and_one_line_is_a_choice_and_a_protocol_everywhere(package, tiles, tmp_path):
    shown = run(package, "-m", "fgmae_bench.segment", "--help", cwd=tmp_path).stdout
    assert "--head {nearest,upernet,linear}" in shown
    assert "nearest values, UPerNet, or a per-pixel" in " ".join(shown.split())
    plan = tmp_path / "mine.toml"
    plan.write_text(EXPERIMENT.format(protocol="frozen_nearest"))
    planned = run(package, "-m", "fgmae_bench.suite", "plan", plan, "--commands", cwd=tmp_path)
    assert (planned.returncode, "--head nearest" in planned.stdout) == (0, True), planned.stderr
    plan.write_text(EXPERIMENT.format(protocol="frozen_linear"))
    refused = run(package, "-m", "fgmae_bench.suite", "plan", plan, "--commands", cwd=tmp_path)
    assert refused.returncode == 2
    assert "protocol is frozen_linear, its flags give frozen_nearest" in refused.stderr
    assert refused.stderr.count("\n") == 1
    said = run(package, "-c", "from fgmae_bench.api import evaluate; print(evaluate.__doc__)", cwd=tmp_path).stdout
    assert "`frozen_nearest`" in said


def test_new_names_run_and_are_recorded(package, tiles, tmp_path):
    flags = ["--head", "nearest", "--optimizer", "plain", "--schedule", "level", "--panels", "0"]
    places = ["--data_path", tiles, "--results_dir", "results", "--cache_dir", "cache", "--device", "cpu"]
    done = run(package, "-m", "fgmae_bench.segment", "--dataset", "dfc2020", *FROZEN, *flags, *places, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "results" / "records" / "dfc2020" / "frozen_nearest").glob("*.json")
    record = json.loads(path.read_text())
    recipe = record["config"]["recipe"]
    assert (recipe["head"], recipe["optimizer"], recipe["schedule"]) == ("nearest", "plain", "level")
    assert {entry["lr"] for entry in record["history"]} == {1e-3}


@pytest.mark.parametrize("table", [ENGINES, HEADS, NORMS, OPTIMIZERS])
def test_every_name_has_code(table):
    assert all(callable(code_of("name", name, table)) for name in table)


def test_an_unknown_name_is_refused_with_the_closest():
    with pytest.raises(BenchError, match="unknown head 'upernt'; did you mean 'upernet'"):
        code_of("head", "upernt", HEADS)


def test_words_are_listed_as_in_a_sentence():
    assert listed(PROBES.values()) == "linear probe by SGD, logistic regression, or nearest neighbours"
    assert listed([HEADS["upernet"]]) == "UPerNet"
