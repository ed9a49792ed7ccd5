"""`report compare`: the same samples or nothing, the right test for the kind of data, Holm over all cells, one line for
bad input.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from make_records import make_record, resealed, store_all
from safetensors.numpy import save

from fgmae_bench.errors import BenchError
from fgmae_bench.metrics.significance import mcnemar_mid_p
from fgmae_bench.report import __main__ as entry
from fgmae_bench.report import compare
from fgmae_bench.report.predictions import with_intervals

REPOSITORY = Path(__file__).resolve().parent.parent
N, K = 300, 3
IDS = [f"s{i}" for i in range(N)]
TARGETS = np.arange(N) % K


def logits(accuracy: float, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    said = np.where(random.random(N) < accuracy, TARGETS, (TARGETS + 1) % K)
    return np.eye(K, dtype=np.float32)[said]


def put(root, record, tensors, ids=IDS, groups=None, classes=("a", "b", "c")):
    """Store a record with predictions; returns the record."""
    lists = {"ids": list(ids), "classes": list(classes), **({"groups": list(groups)} if groups else {})}
    content = save(tensors, {name: json.dumps(values) for name, values in lists.items()})
    path = root / "predictions" / f"{record['run_id']}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    record = resealed(record, "predictions", {"sha256": digest, "file": f"predictions/{path.name}"})
    record = resealed(
        record, "dataset", "sample_ids_sha256", "test", hashlib.sha256("\n".join(ids).encode()).hexdigest()
    )
    store_all([record], root)
    return record


@pytest.fixture
def two(tmp_path):
    return [
        put(tmp_path, make_record(seed=i), {"logits": logits(a, i), "targets": TARGETS})
        for i, a in enumerate((0.9, 0.7))
    ]


def said(root, *arguments) -> str:
    return compare.main([*arguments, "--results_dir", str(root)])


def test_accuracy_on_independent_samples_is_tested_by_mcnemar(two, tmp_path):
    text = said(tmp_path, two[0]["run_id"], two[1]["run_id"], "--metric", "oa")
    right = [logits(a, i).argmax(1) == TARGETS for i, a in enumerate((0.9, 0.7))]
    p = mcnemar_mid_p(int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum()))
    cells, _, _ = compare.compare([compare.find_run(record["run_id"], tmp_path) for record in two], ["oa"])
    assert (cells[0].test, cells[0].difference.p) == (compare.MCNEMAR, p)
    assert cells[0].difference.a - cells[0].difference.b == pytest.approx(right[0].mean() - right[1].mean())
    assert "*** " in text
    assert "no groups are known" in text


def test_paths_of_records_work_like_ids_and_order_of_samples_does_not_matter(two, tmp_path):
    other = np.random.default_rng(0).permutation(N)
    moved = put(
        tmp_path,
        make_record(seed=7),
        {"logits": logits(0.7, 1)[other], "targets": TARGETS[other]},
        [IDS[i] for i in other],
    )
    a, b, c = (str(next((tmp_path / "records").rglob(f"{record['run_id']}.json"))) for record in (*two, moved))
    numbers = [said(tmp_path, a, each).splitlines()[3:] for each in (b, c)]
    assert [line.split()[1:] for line in numbers[0][1:]] == [line.split()[1:] for line in numbers[1][1:]]


def test_groups_are_drawn_where_they_are_known(tmp_path):
    groups = [f"tile{i // 30}" for i in range(N)]
    for i, a in enumerate((0.9, 0.7)):
        put(tmp_path, make_record(seed=i), {"logits": logits(a, i), "targets": TARGETS}, groups=groups)
    ids = [make_record(seed=i)["run_id"] for i in (0, 1)]
    text = said(tmp_path, *ids)
    assert "drawn as 10 groups" in text
    assert compare.MCNEMAR not in text


def test_segmentation_is_compared_by_confusion_matrices_of_images(tmp_path):
    random = np.random.default_rng(0)
    for i, good in enumerate((60, 50)):
        confusion = np.zeros((20, 2, 2), np.int64)
        confusion[:, 0, 0] = confusion[:, 1, 1] = np.minimum(64, random.poisson(good, 20))
        confusion[:, 0, 1], confusion[:, 1, 0] = 64 - confusion[:, 0, 0], 64 - confusion[:, 1, 1]
        put(tmp_path, make_record(seed=i), {"confusion": confusion}, IDS[:20], classes=("a", "b"))
    text = said(tmp_path, *(make_record(seed=i)["run_id"] for i in (0, 1)), "--metric", "miou")
    assert "***" in text.splitlines()[-2]


def test_holm_covers_every_cell_and_a_table_is_held_against_its_first_run(two, tmp_path):
    put(tmp_path, make_record(seed=5), {"logits": logits(0.88, 5), "targets": TARGETS})
    runs = [compare.find_run(make_record(seed=i)["run_id"], tmp_path) for i in (0, 1, 5)]
    cells, _, _ = compare.compare(runs, ["oa", "aa"])
    assert [cell.metric for cell in cells] == ["oa", "aa"] * 2
    smallest = min(cell.difference.p for cell in cells)
    assert min(cell.adjusted for cell in cells) == pytest.approx(min(1, 4 * smallest))


def test_other_samples_labels_and_missing_predictions_are_one_line(two, tmp_path):
    a, b = (record["run_id"] for record in two)
    fewer = put(tmp_path, make_record(seed=8), {"logits": logits(0.8)[1:], "targets": TARGETS[1:]}, IDS[1:])
    with pytest.raises(BenchError, match=r"different samples \(1 only in the first, 0 only in the second\)"):
        said(tmp_path, a, fewer["run_id"])
    relabelled = put(tmp_path, make_record(seed=9), {"logits": logits(0.8), "targets": (TARGETS + 1) % K})
    with pytest.raises(BenchError, match="different labels"):
        said(tmp_path, a, relabelled["run_id"])
    with pytest.raises(BenchError, match=r"no metric 'miou'"):
        said(tmp_path, a, b, "--metric", "miou")
    with pytest.raises(BenchError, match="no record of run"):
        said(tmp_path, a, "nothing")
    with pytest.raises(BenchError, match="1 runs to compare"):
        said(tmp_path, a)
    file = tmp_path / "predictions" / f"{b}.safetensors"
    for content in (b"", file.read_bytes()[:-8], file.read_bytes().replace(b"s10", b"x10")):
        file.write_bytes(content)
        with pytest.raises(BenchError, match="sha256 differs"):
            said(tmp_path, a, b)
    file.unlink()
    with pytest.raises(BenchError, match="are missing"):
        said(tmp_path, a, b)
    store_all([make_record(seed=11)], tmp_path)
    with pytest.raises(BenchError, match="stored no predictions"):
        said(tmp_path, a, make_record(seed=11)["run_id"])


def test_a_record_is_not_compared_with_itself(two, tmp_path):
    a, b = (record["run_id"] for record in two)
    path = str(next((tmp_path / "records").rglob(f"{a}.json")))
    for names in ((a, a), (a, path), (b, a, a)):
        with pytest.raises(BenchError, match=f"the record of run {a} is named twice; name different runs"):
            said(tmp_path, *names)


def test_a_table_compares_rows_with_all_their_seeds_and_one_of_one_seed_gets_no_stars(
    two, tmp_path, monkeypatch, capsys
):
    put(tmp_path, make_record(model="vit_base_patch16", batch_size=256), {"logits": logits(0.6, 4), "targets": TARGETS})
    table = ("--table", "eurosat_linear", "--experiments", str(REPOSITORY / "experiments"))
    text = said(tmp_path, *table)
    assert f"A = {two[0]['run_id']} (2 seeds)" in text
    assert "1 of the rows are of one seed: what another seed would give is not in their errors" in text
    assert ": oa 0." in next(line for line in text.splitlines() if "over both (SE " in line)
    line = next(line for line in text.splitlines() if " oa " in line and "seeds x groups" in line)
    assert "SE over groups" in line
    assert "*" not in line
    monkeypatch.setattr(sys, "argv", ["report", "compare", *table, "--results_dir", str(tmp_path)])
    assert entry.main() == 0
    assert two[0]["run_id"] in capsys.readouterr().out
    other = make_record(model="vit_base_patch16", batch_size=256, seed=7)
    put(tmp_path, other, {"logits": logits(0.6, 9), "targets": TARGETS})
    text = said(tmp_path, *table)
    assert "of one seed" not in text
    line = next(line for line in text.splitlines() if " oa " in line and "seeds x groups" in line)
    assert "SE over seeds" in line
    assert "each with all its seeds" in " ".join(compare.parser().format_help().split())


def test_predictions_of_other_samples_than_the_record_are_refused(two, tmp_path):
    record = resealed(two[0], "dataset", "sample_ids_sha256", "test", "0" * 64)
    with pytest.raises(BenchError, match="other samples than the test split"):
        with_intervals(record, tmp_path)


def test_missing_intervals_are_filled_in_from_predictions(two, tmp_path):
    found = with_intervals(two[0], tmp_path)["metrics"]["intervals"]
    assert (found["over"], found["units"]) == ("samples", N)
    low, high = found["test"]["oa"]
    assert low < (logits(0.9, 0).argmax(1) == TARGETS).mean() < high
    assert with_intervals(make_record(), tmp_path)["metrics"]["intervals"] is None


def test_scores_that_are_not_finite_have_no_interval_and_are_not_compared(two, tmp_path):
    """NaN has no order: it was taken for the first class, and so had an interval."""
    broken = logits(0.9)
    broken[3] = np.nan
    lost = put(tmp_path, make_record(seed=7), {"logits": broken, "targets": TARGETS})
    bare = resealed(lost, "metrics", "intervals", None)
    assert with_intervals(bare, tmp_path) is bare
    with pytest.raises(BenchError, match="predicted numbers that are not finite"):
        said(tmp_path, two[0]["run_id"], lost["run_id"])


def test_what_a_run_writes_is_read_with_its_groups(tmp_path):
    from fgmae_bench.report.predictions import read_predictions
    from fgmae_bench.runs.folder import write_predictions

    record = put(tmp_path, make_record(), {"logits": logits(0.9), "targets": TARGETS})
    path, groups = tmp_path / "x.safetensors", [f"t{i % 7}" for i in range(N)]
    write_predictions(path, logits(0.9), TARGETS, IDS, ("a", "b", "c"), groups)
    record = {**record, "predictions": {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "file": "x"}}
    found = read_predictions(record, path)
    assert (found.ids, found.groups, found.units().count) == (tuple(IDS), tuple(groups), 7)
