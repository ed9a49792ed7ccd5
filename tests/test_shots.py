"""`--shots` and `--draw`: what a command is composed of, its refusals, and whole runs of several draws in one pass."""

import numpy as np
import pytest
from commands import TINY_VIT, call, codes, linear, records, refused, shared_world
from linear_runs import bank, files
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from test_config import FACTS, a_run

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.compose import compose
from fgmae_bench.config.recipes import FIXED_PENALTY, PENALTIES
from fgmae_bench.config.run_ids import run_hash
from fgmae_bench.data.groups import with_groups
from fgmae_bench.data.layouts import build_index
from fgmae_bench.errors import BenchError


def composed(**flags):
    return compose("linear", {"dataset": "eurosat", **flags}, load_card("eurosat"))


def test_the_hash_of_a_run_with_all_labels_is_what_it_was_before_there_were_shots():
    assert run_hash(a_run(), FACTS) == "1a2f52300207a08ea644fab5219d40fe26914a6b57025bf7ff9b41480ede4885"


def test_shots_are_a_grid_with_five_draws_of_each():
    runs = composed(probe="lbfgs", shots=[1, 5])
    assert [(run.data.shots, run.data.draw) for run in runs] == [(k, d) for k in (1, 5) for d in range(5)]
    assert [run.data.draw for run in composed(probe="lbfgs", shots=[5], draw=[2, 7])] == [2, 7]
    assert len({run_hash(run, FACTS) for run in runs}) == 10


def test_neighbours_are_no_more_than_shots():
    runs = composed(probe="knn", shots=[1, 3, 20], draw=0)
    assert [run.recipe.knn_k for run in runs] == [1, 3, 5]


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        ({"shots": [5, 5]}, "the grid of --shots and --draw holds a value twice"),
        ({"shots": 0}, "--shots is 0; give 1 or more"),
        ({"draw": 3}, "--draw 3 with all labels: nothing is drawn; give --shots or --train_frac"),
        ({"draw": -1, "shots": 2}, "--draw is -1; give zero or more"),
        ({"shots": 5, "train_frac": 0.5}, "--shots 5 with --train_frac 0.5; leave one out"),
        (
            {"shots": [5, 20], "probe": "lbfgs", "weight_decay": [0.1, 1.0]},
            "2 penalties to choose from and --shots 5: too few labels to choose on; give one, or 10 shots and more",
        ),
    ],
    ids=["twice", "zero", "no_labels", "negative", "both", "penalties"],
)
def test_few_labels_that_cannot_be(flags, fault):
    with pytest.raises(BenchError) as error:
        composed(**flags)
    assert str(error.value).startswith(fault)


def test_penalties_may_be_chosen_from_ten_shots_on():
    assert composed(probe="lbfgs", shots=10, draw=0)[0].recipe.penalties == PENALTIES["lbfgs"]
    assert composed(probe="lbfgs", shots=10, draw=0, weight_decay=[0.1, 1.0])[0].recipe.penalties == (0.1, 1.0)


def test_shots_above_a_classs_size_end_in_one_line(tmp_path):
    line = refused(shared_world(5), "--probe", "lbfgs", "--shots", "2", "9", cwd=tmp_path, cache_filled=True)
    assert line == "error: --shots is 9: class 'AnnualCrop' has 4 training images; give 4 or fewer"


def test_shots_with_a_batch_of_the_published_recipe_end_in_one_line(tmp_path):
    line = refused(shared_world(5), "--shots", "1", cwd=tmp_path, cache_filled=True)
    assert "effective batch 16 is larger than the training split of 1 shots (10 images)" in line


def test_shots_of_label_maps_are_refused(tmp_path):
    done = call("segment", "--dataset", "dfc2020", "--shots", "1", "--data_path", tmp_path, cwd=tmp_path)
    assert done.code == 2


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Two shots, three draws and two probes of one random ViT."""
    folder = tmp_path_factory.mktemp("drawn")
    for probe in ("lbfgs", "knn"):
        flags = ("--probe", probe, "--shots", 1, 4, "--draw", 0, 1, 2)
        done = linear(shared_world(), *flags, cwd=folder, backbone=TINY_VIT)
        assert done.code == 0, done.err
    return folder


def test_all_draws_come_from_one_bank_with_the_test_split_fixed(drawn):
    found = records(drawn / "results")
    assert len(found) == 12
    assert len(list((drawn / "cache" / "features").iterdir())) == 1
    samples = [record["dataset"]["sample_ids_sha256"] for record in found]
    assert len({each["test"] for each in samples}) == 1
    assert len({each["train"] for each in samples}) == 6  # the same for both probes: draws are paired
    assert {record["dataset"]["n_train"] for record in found} == {10, 40}
    assert all("few_labels" in codes(record) for record in found)
    assert {len(record["config"]["facts"]["few_labels"]["pool"]) for record in found} == {64}


def test_each_draw_is_what_a_run_of_its_own_gives(drawn, tmp_path):
    alone = linear(shared_world(), "--probe", "lbfgs", "--shots", 4, "--draw", 1, cwd=tmp_path, backbone=TINY_VIT)
    assert alone.code == 0, alone.err
    (one,) = records(tmp_path / "results")
    same = next(record for record in records(drawn / "results") if record["run_id"] == one["run_id"])
    assert one["metrics"] == same["metrics"]


def test_few_shots_are_scikit_learns_with_a_fixed_penalty_and_one_neighbour(drawn, tmp_path):
    """Which samples were drawn is found by the hash of their ids, from subsets made here by the rule of the docs."""
    ids, labels = files(shared_world())
    card = load_card("eurosat")
    index = with_groups(card, build_index(card, shared_world()), tmp_path)
    blocks = [index.groups[index.ids.index(name)] for name in ids]
    held = bank(drawn)
    x = np.stack([held[name] for name in ids]).astype(np.float64)
    for record in records(drawn / "results"):
        train, test = parts_of(record, ids, labels, blocks)
        if record["protocol"] == "logistic_regression":
            mean, std = x[train].mean(0), x[train].std(0) + 1e-12
            model = LogisticRegression(C=1 / (FIXED_PENALTY * len(train)), max_iter=5000, tol=1e-8)
            score = model.fit((x[train] - mean) / std, labels[train]).score((x[test] - mean) / std, labels[test])
        else:
            k = min(5, record["config"]["data"]["shots"])
            assert record["config"]["recipe"]["knn_k"] == k
            model = KNeighborsClassifier(k, metric="cosine", algorithm="brute")
            score = model.fit(x[train], labels[train]).score(x[test], labels[test])
        assert record["metrics"]["test"]["oa"] == pytest.approx(score, abs=1 / len(test) + 1e-9)
        assert "selection" not in record  # nothing was chosen


def parts_of(record, ids, labels, blocks):
    """(train, test) rows of a record: its subset drawn from the reference split, checked by the hash of its ids."""
    import hashlib

    from sklearn.model_selection import train_test_split

    train, test = train_test_split(np.arange(len(ids)), train_size=0.8, stratify=labels, random_state=42)
    data, seed = record["config"]["data"], record["config"]["recipe"]["seed"]

    def place(row, *what):
        text = "\x1f".join(map(str, (seed, "few_labels", data["draw"], labels[row], *what)))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")

    chosen = []
    for k in range(10):
        members = sorted(train[labels[train] == k], key=lambda row: place(row, ids[row]))
        order = sorted({blocks[row] for row in members}, key=lambda name: place(members[0], "group", name))
        turn = {row: sum(blocks[other] == blocks[row] for other in members[:i]) for i, row in enumerate(members)}
        members.sort(key=lambda row: (turn[row], order.index(blocks[row])))  # the groups take turns
        chosen.append(members[: data["shots"]])
    rows = [row for row in train if row in np.concatenate(chosen)]
    digest = hashlib.sha256("\n".join(ids[row] for row in rows).encode()).hexdigest()
    assert digest == record["dataset"]["sample_ids_sha256"]["train"]
    return np.array(rows), test
