"""One definition a metric: a function and a line, from which everything else follows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fgmae_bench.metrics import intervals as iv
from fgmae_bench.metrics.multi_label import average_precision, multi_label
from fgmae_bench.metrics.segmentation import segmentation
from fgmae_bench.metrics.single_label import single_label
from fgmae_bench.metrics.statistics import Confusion, mean_known
from fgmae_bench.metrics.table import METRICS, MULTI, SEGMENTATION, SINGLE, measure, names, selection

PACKAGE = Path(__file__).resolve().parents[1] / "fgmae_bench"
FUNCTION = '''def balanced_error(s: Confusion) -> Values:
    """1 - average accuracy."""
    return 1 - average_accuracy(s)


'''
LINE = '    "balanced_error": Metric(value=balanced_error, tasks=(SINGLE, SEGMENTATION), title="BER", hint="1 - AA"),\n'
USE = """
import json, sys
from pathlib import Path
import numpy as np
from make_records import make_record, resealed, store_all
from fgmae_bench.metrics.intervals import intervals, segmentation_units
from fgmae_bench.metrics.segmentation import segmentation
from fgmae_bench.records import problem_of
from fgmae_bench.report.__main__ import main
from fgmae_bench.runs.tasks import TASKS

rng = np.random.default_rng(0)
targets = rng.integers(0, 4, 400)
logits = rng.normal(size=(400, 4)) + np.eye(4)[targets]
task = TASKS["single_label"]
test = {**task.evaluate(logits, targets), "epoch": 1}
record = make_record(test=test)
found = intervals(task.units(logits, targets, None), 100)
record = resealed(record, "metrics", "intervals", found)
store_all([record], Path("results"))
wrong = json.loads(json.dumps(record))
wrong["metrics"]["test"]["balanced_error"] = 1.5
sys.argv = ["report", "--results_dir", "results", "--experiments", "experiments"]
assert main() == 0
stack = rng.integers(0, 9, (20, 3, 3))
print(json.dumps({
    "test": test, "intervals": found["test"], "problem": problem_of(wrong), "segmentation": segmentation(stack),
    "segmentation intervals": intervals(segmentation_units(stack), 50)["test"],
}))
"""
EXPERIMENT = """
title = "T"
module = "linear"
protocol = "linear_probe"
[common]
dataset = "eurosat"
split = "reference"
[layout]
columns = ["run", "balanced_error", "delta_balanced_error"]
curves = ["balanced_error"]
[[runs]]
label = "mine"
nproc_per_node = 2
flags = { model = "vit_small_patch16", weights = "fgmae", lr = 0.1 }
"""


def test_a_metric_is_one_function_and_one_line(tmp_path):
    """In a copy of the package: it appears in scores, intervals, schema, columns, page and figures."""
    copied = tmp_path / "fgmae_bench"
    shutil.copytree(PACKAGE, copied, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "datasets").symlink_to(PACKAGE.parent / "datasets")
    (tmp_path / "results").mkdir()
    shutil.copytree(PACKAGE.parent / "results/published", tmp_path / "results/published")
    table = copied / "metrics" / "table.py"
    head, middle, rest = table.read_text().partition("METRICS: dict")
    table.write_text(head + FUNCTION + middle + rest.replace("{\n", "{\n" + LINE, 1))
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "t.toml").write_text(EXPERIMENT)
    paths = os.pathsep.join((str(tmp_path), str(Path(__file__).parent)))
    environment = os.environ | {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", USE], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["test"]["balanced_error"] == 1 - found["test"]["aa"]
    low, high = found["intervals"]["balanced_error"]
    assert [1 - high, 1 - low] == pytest.approx(found["intervals"]["aa"], abs=1e-12)
    assert found["problem"].startswith("metrics/test/balanced_error: 1.5 is greater than the maximum of 1")
    assert found["segmentation"]["balanced_error"] == 1 - found["segmentation"]["aa"]
    assert found["segmentation intervals"]["balanced_error"][0] > 0
    markdown = (tmp_path / "results/tables/t.md").read_text()
    assert "| balanced_error | balanced_error_interval | delta_balanced_error |" in markdown
    assert f"| {found['test']['balanced_error']:.3f} | {low:.3f} to {high:.3f} |" in markdown
    page = (tmp_path / "results/index.html").read_text()
    assert '"balanced_error":["BER","1 - AA",true]' in page
    assert '"balanced_error_interval":["BER 95 %","Interval of the test samples' in page
    assert '"balanced_error":"BER (fraction)"' in page
    assert "BER (fraction)" in (tmp_path / "results/figures/t-balanced_error.svg").read_text()


def test_the_table_is_whole():
    assert names(SINGLE) == ("oa", "aa", "kappa", "f1_macro")
    assert names(MULTI) == ("map_micro", "map_macro", "f1_micro", "f1_macro")
    assert names(SEGMENTATION) == ("miou", "miou_union", "miou_all", "oa", "aa", "fwiou")
    assert [selection(task) for task in (SINGLE, MULTI, SEGMENTATION)] == ["oa", "map_micro", "miou"]
    chosen = [metric.selects for metric in METRICS.values() if metric.selects]
    assert sorted(chosen) == sorted({SINGLE, MULTI, SEGMENTATION}), "one metric selects in each task"
    for name, metric in METRICS.items():
        assert metric.title
        assert metric.axis_label
        assert metric.selects is None or metric.selects in metric.tasks
        assert metric.interval == (name != "loss")


@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("seed", range(20))
def test_one_set_and_a_batch_give_the_same_values(seed, extra):
    """The same function scores a split and its resamples: absent classes, empty matrices and a foreign column too."""
    rng = np.random.default_rng(seed)
    k = int(rng.integers(2, 20))
    stack = rng.integers(0, 50, (30, k, k + extra)) * (rng.random((30, k, 1)) > 0.3) * (rng.random((30, 1, 1)) > 0.1)
    for task, one in ((SINGLE, single_label), (SEGMENTATION, segmentation)):
        if task == SINGLE and extra:
            continue
        together = measure(task, Confusion(stack.astype(float)))
        for i, matrix in enumerate(stack):
            alone = {name: np.nan if value is None else value for name, value in one(matrix).items()}
            assert {name: values[i] for name, values in together.items()} == pytest.approx(
                alone, abs=1e-15, rel=1e-14, nan_ok=True
            )


def test_scores_are_the_plain_means_to_the_last_bit():
    """A score of a record is numpy's mean of the defined values, whatever classes are absent."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        row = rng.random(int(rng.integers(1, 40)))
        row[rng.random(len(row)) < 0.4] = np.nan
        known = row[~np.isnan(row)]
        assert mean_known(row[None])[0] == known.mean() if len(known) else np.isnan(mean_known(row[None])[0])


def test_average_precision_of_ties_is_rounded_once_a_level():
    """By hand in whole numbers: each level's hits x positives over what was seen, summed, over all positives."""
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 7, 300) / 7
    positive = rng.random(300) < scores
    terms, hits, seen = [], 0, 0
    for level in sorted(set(scores.tolist()), reverse=True):
        step = int(positive[scores == level].sum())
        hits, seen = hits + step, seen + int((scores == level).sum())
        terms.append(step * hits / seen)
    assert average_precision(scores, positive) == pytest.approx(sum(terms) / positive.sum(), rel=1e-15)


def test_the_split_itself_is_scored_as_in_the_record():
    rng = np.random.default_rng(2)
    targets = rng.random((500, 4)) < 0.3
    logits = np.round(rng.normal(size=targets.shape) + targets, 1)
    assert iv.point(iv.multi_label_units(logits, targets)) == multi_label(logits, targets)


def test_resamples_without_positives_have_no_f1():
    """As the score of a split without positives: undefined, not 0."""
    logits, targets = np.ones((3, 2)), np.array([[1, 0], [0, 0], [0, 0]])
    measured = iv.multi_label_units(logits, targets).measure(np.array([[1, 1, 1], [0, 2, 1]], np.float32))
    assert np.isnan(measured["f1_micro"]).tolist() == [False, True]
    assert set(multi_label(logits[1:], targets[1:]).values()) == {None}
