"""`report compare` of rows, tables and models: all seeds, over groups, on several datasets; what cannot be said is said."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from make_records import make_record, resealed
from scipy.special import stdtrit
from test_report_compare import K, put, said

from fgmae_bench.errors import BenchError
from fgmae_bench.metrics.intervals import single_label_units
from fgmae_bench.metrics.rows import row_differences
from fgmae_bench.metrics.variance import over_datasets
from fgmae_bench.report import compare, tested
from fgmae_bench.report.row import Row

N = 600
IDS = [f"s{i}" for i in range(N)]
TARGETS = np.arange(N) % K
GROUPS = [f"scene{i // 40:02}" for i in range(N)]
MODELS = ("vit_small_patch16", "vit_base_patch16")


def logits(accuracy, seed):
    """Hits that vary by scene and seed."""
    random = np.random.default_rng(seed)
    rate = np.clip(accuracy + random.normal(0, 0.04) + random.normal(0, 0.05, 15), 0, 1)[np.arange(N) // 40]
    return np.eye(K, dtype=np.float32)[np.where(random.random(N) < rate, TARGETS, (TARGETS + 1) % K)]


def put_seed(root, model, seed, accuracy, dataset="eurosat", ids=IDS, content="pixels"):
    """Store one seed of a row."""
    rate = 0.1 if dataset == "eurosat" else 0.2  # a made record's id does not tell datasets apart
    record = make_record(model=model, seed=seed, batch_size=256, lr=rate, dataset=dataset, content=content)
    scores = logits(accuracy, hash_of(model, seed, dataset))
    return put(root, record, {"logits": scores, "targets": TARGETS}, ids, GROUPS)


def hash_of(*parts):
    return sum(ord(c) * (i + 1) for i, c in enumerate(" ".join(map(str, parts))))


def test_models_are_compared_on_each_dataset_and_over_all(tmp_path):
    datasets = {"eurosat": (0.85, 0.70), "bigearthnet": (0.75, 0.68)}
    for dataset, accuracies in datasets.items():
        for model, accuracy in zip(MODELS, accuracies, strict=True):
            for seed in (1, 2, 3):
                put_seed(tmp_path, model, seed, accuracy, dataset)
    text = said(tmp_path, "--models", *MODELS, "--datasets", *datasets)
    lines = text.splitlines()
    assert "eurosat: 600 test samples, drawn as 15 groups; 3 seeds each." in lines
    each = []
    for dataset in datasets:
        rows = [
            [single_label_units(logits(a, hash_of(m, s, dataset)), TARGETS, GROUPS) for s in (1, 2, 3)]
            for m, a in zip(MODELS, datasets[dataset], strict=True)
        ]
        each.append(row_differences(*rows, paired=True)["oa"])
        line = next(line for line in lines if line.startswith(f"{dataset} "))
        assert f"{each[-1].value:+.3f}" in line
        assert f"SE over seeds {each[-1].over_seeds:.3f}, SE over groups {each[-1].over_groups:.3f}" in line
    mean = over_datasets(each)
    overall = next(line for line in lines if line.startswith(compare.OVERALL))
    assert f"{mean.value:+.3f}" in overall
    assert "{:+.3f} to {:+.3f}".format(*mean.interval()) in overall
    assert "Holm over 3 cells" in lines[-1]
    assert "**" in overall


def test_models_of_one_seed_or_on_other_samples_are_said_and_not_starred(tmp_path):
    for model, accuracy in zip(MODELS, (0.9, 0.6), strict=True):
        put_seed(tmp_path, model, 1, accuracy)
    text = said(tmp_path, "--models", *MODELS, "--datasets", "eurosat")
    assert "2 of the rows are of one seed" in text
    assert "*" not in next(line for line in text.splitlines() if line.startswith("eurosat  "))
    put_seed(tmp_path, MODELS[0], 1, 0.9, "bigearthnet")
    put_seed(tmp_path, MODELS[1], 1, 0.6, "bigearthnet", content="other pixels")
    text = said(tmp_path, "--models", *MODELS)
    assert "bigearthnet: left out: " in text
    assert "were tested on other pixels or labels" in text
    with pytest.raises(BenchError, match="no dataset on which both models can be compared"):
        said(tmp_path, "--models", *MODELS, "--datasets", "bigearthnet")
    with pytest.raises(BenchError, match="no run of resnet50 on eurosat with predictions"):
        said(tmp_path, "--models", MODELS[0], "resnet50", "--datasets", "eurosat")
    with pytest.raises(BenchError, match="--models together with runs"):
        said(tmp_path, "some_run", "--models", *MODELS)
    other = make_record(model=MODELS[0], seed=1, batch_size=256, lr=0.3)
    put(tmp_path, other, {"logits": logits(0.9, 0), "targets": TARGETS}, IDS, GROUPS)
    with pytest.raises(BenchError, match="2 rows of vit_small_patch16 on eurosat"):
        said(tmp_path, "--models", *MODELS, "--datasets", "eurosat")


def test_rows_of_a_table_on_other_samples_are_left_out(tmp_path):
    put_seed(tmp_path, MODELS[0], 42, 0.9)
    put_seed(tmp_path, MODELS[1], 42, 0.6, content="other pixels")
    runs = [compare.candidate((record,), tmp_path, row=True) for record in stored(tmp_path)]
    cells, left_out, _ = compare.compare(runs, [], skip=True)
    assert cells == []
    assert len(left_out) == 1
    assert "left out: " in left_out[0]


def stored(root):
    return [record for _, record in compare.all_records(root)[0]]


def test_few_groups_are_withheld_and_say_why(tmp_path):
    for model, accuracy in zip(MODELS, (0.9, 0.6), strict=True):
        record = make_record(model=model, seed=1, batch_size=256)
        few = [f"scene{i // 200}" for i in range(N)]
        put(tmp_path, record, {"logits": logits(accuracy, 1), "targets": TARGETS}, IDS, few)
    names = [record["run_id"] for record in stored(tmp_path)]
    text = said(tmp_path, *names, "--metric", "oa")
    assert "drawn as 3 groups" in text
    line = next(line for line in text.splitlines() if line.startswith(names[1]))
    assert "withheld: fewer than 5 groups" in line
    assert "*" not in line


def test_seeds_that_differ_are_not_taken_in_pairs(tmp_path):
    for model, seeds in zip(MODELS, ((1, 2, 3), (4, 5)), strict=True):
        for seed in seeds:
            put_seed(tmp_path, model, seed, 0.8)
    text = said(tmp_path, "--models", *MODELS, "--datasets", "eurosat")
    assert "3 seeds and 2 seeds" in text
    assert "same seeds" not in text
    assert "SE over seeds" in text


def test_a_models_grid_is_compared_by_the_row_that_val_selects(tmp_path):
    put_seed(tmp_path, MODELS[1], 1, 0.6)
    held = {}
    for rate, on_val in ((0.1, 0.7), (0.3, 0.9), (1.0, 0.8)):
        record = make_record(model=MODELS[0], seed=1, batch_size=256, lr=rate, content="pixels")
        record["dataset"]["n_val"] = 50
        record["metrics"]["best"] = {"oa": on_val, "epoch": 1}
        record["metrics"]["final"] = {"oa": on_val}
        put(tmp_path, record, {"logits": logits(0.8, int(10 * rate)), "targets": TARGETS}, IDS, GROUPS)
        held[rate] = record["run_id"]
    text = said(tmp_path, "--models", *MODELS, "--datasets", "eurosat")
    assert f"{held[0.3]} is what val selected of 3 settings on eurosat." in text
    assert "Unequal budgets: the rows were chosen from different numbers of settings." in text


def test_a_models_grid_without_val_is_not_chosen_from(tmp_path):
    put_seed(tmp_path, MODELS[1], 1, 0.6)
    for rate in (0.1, 0.3):
        record = make_record(model=MODELS[0], seed=1, batch_size=256, lr=rate, content="pixels")
        put(tmp_path, record, {"logits": logits(0.8, 1), "targets": TARGETS}, IDS, GROUPS)
    with pytest.raises(BenchError, match=r"2 rows of vit_small_patch16 on eurosat, such as .*; narrow it"):
        said(tmp_path, "--models", *MODELS, "--datasets", "eurosat")


def few(model, draw, seed=1, dataset="eurosat"):
    """A run of five labels a class, of one seed and a draw; the run id is any."""
    made = make_record(model=model, seed=1000 * seed + draw, batch_size=256, dataset=dataset, content="pixels")
    made = resealed(made, "config", "recipe", "seed", seed)
    return resealed(resealed(made, "config", "data", "shots", 5), "config", "data", "draw", draw)


def put_draws(root, model, draws, accuracy):
    """Store draws of one seed: how good a draw is, is the same for every model; returns the units by draw."""
    found = {}
    for draw in draws:
        luck = np.random.default_rng(draw).normal(0, 0.1)
        scores = logits(np.clip(accuracy + luck, 0, 1), hash_of(model, draw))
        put(root, few(model, draw), {"logits": scores, "targets": TARGETS}, IDS, GROUPS)
        found[draw] = single_label_units(scores, TARGETS, GROUPS)
    return found


def test_draws_of_labels_are_pairs_by_their_number(tmp_path):
    a, b = (put_draws(tmp_path, model, range(5), 0.7) for model in MODELS)
    text = said(tmp_path, "--models", *MODELS, "--datasets", "eurosat")
    assert "5 draws each" in text
    assert "draws x groups, same draws, SE over draws" in text
    wanted = row_differences([a[i] for i in range(5)], [b[i] for i in range(5)], paired=True)["oa"]
    assert "{:+.3f} to {:+.3f}".format(*wanted.interval()) in text


def test_other_draws_of_the_same_seed_are_no_pairs(tmp_path):
    a, b = (put_draws(tmp_path, model, draws, 0.7) for model, draws in zip(MODELS, ((0, 1, 2), (3, 4, 5)), strict=True))
    text = said(tmp_path, "--models", *MODELS, "--datasets", "eurosat")
    assert "same draws" not in text
    wanted = row_differences(list(a.values()), list(b.values()), paired=False)["oa"]
    assert "{:+.3f} to {:+.3f}".format(*wanted.interval()) in text


def test_other_draws_are_no_pairs_of_a_column_either(tmp_path):
    rows = []
    for model, draws in zip(MODELS, ((0, 1, 2), (3, 4, 5)), strict=True):
        units = list(put_draws(tmp_path, model, draws, 0.7).values())
        of_model = [record for record in stored(tmp_path) if record["model"]["name"] == model]
        held = sorted(of_model, key=lambda record: record["config"]["data"]["draw"])
        rows.append((Row(label=model, dataset="EuroSAT-SAR", records=tuple(held)), units))
    place = SimpleNamespace(metric="oa")
    found, problems = tested._column(place, [row for row, _ in rows], tmp_path)
    assert not problems
    wanted = row_differences(rows[0][1], rows[1][1], paired=False)["oa"]
    np.testing.assert_allclose(found["pairs"][0][2:], [wanted.value, wanted.error, wanted.degrees], rtol=1e-6)


def test_datasets_of_the_same_scenes_make_an_error_no_smaller(tmp_path):
    each = {}
    for dataset in ("eurosat", "copernicus_eurosat"):
        for model, accuracy in zip(MODELS, (0.85, 0.75), strict=True):
            for seed in (1, 2, 3):
                put_seed(tmp_path, model, seed, accuracy, dataset)
        rows = [
            [single_label_units(logits(a, hash_of(m, s, dataset)), TARGETS, GROUPS) for s in (1, 2, 3)]
            for m, a in zip(MODELS, (0.85, 0.75), strict=True)
        ]
        each[dataset] = row_differences(*rows, paired=True)["oa"]
    text = said(tmp_path, "--models", *MODELS, "--datasets", *each)
    overall = next(line for line in text.splitlines() if line.startswith(compare.OVERALL))
    value = np.mean([one.value for one in each.values()])
    half = np.mean([one.error for one in each.values()]) * stdtrit(min(one.degrees for one in each.values()), 0.975)
    assert f"{value - half:+.3f} to {value + half:+.3f}" in overall
    assert "2 datasets, as they are, of 1 different scenes" in overall
