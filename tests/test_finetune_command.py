"""Fine-tuning as a user runs it: published command lines, what a run leaves, bad input, and what is said when nothing
is to be done.
"""

import contextlib
import json
import os
import shlex
import signal

import numpy as np
import preloaded
import pytest
import torch
from commands import FOLDERS, REPOSITORY, call, codes, listing, only_record, records, said, shared_world, small_world
from preloaded import DEVNULL, HANG, wait_until
from safetensors.numpy import load_file
from sklearn.metrics import accuracy_score

from fgmae_bench.checkpoints.shapes import ARCHITECTURES
from fgmae_bench.checkpoints.synth import write_synthetic
from fgmae_bench.config.cards import load_card
from fgmae_bench.config.compose import compose
from fgmae_bench.models.build import FGMAE_ARCHITECTURES
from fgmae_bench.records import problem_of
from fgmae_bench.worlds.bigearthnet import write_bigearthnet

TINY = (
    "--model",
    "test_vit",
    "--input_size",
    "32",
    "--weights",
    "random",
    "--epochs",
    "3",
    "--batch_size",
    "16",
)
SECOND = (
    "--batch_size 256 --epochs 50 --model vit_small_patch16 --finetune B2_vits16_fgmae_ep99.pth --data_path DIR --lr 0.01 "
    "--warmup_epochs 0 --seed 42 --weight_decay 0.001 --nb_classes 10 --output_dir OUT --log_dir OUT --train_frac 1.0 "
    "--num_workers 10 --fine_tune"
)
FOURTH = (
    "--model vit_small_patch16 --nb_classes 19 --train_frac 1.0 --num_workers 10 --batch_size 256 --epochs 20 --warmup_epochs 3 "
    "--weight_decay 0.05 --accum_iter 2 --blr 1e-3 --layer_decay 0.75 --drop_path 0.2 --mixup 0.8 --seed 42 --fine_tune "
    "--finetune B2_vits16_fgmae_ep99.pth"
)


def finetune(data, *flags, cwd, dataset="eurosat", backbone=TINY):
    return call("finetune", "--dataset", dataset, "--data_path", data, *backbone, *FOLDERS, *flags, cwd=cwd)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "B2_vits16_fgmae_ep99.pth"
    write_synthetic(path, ARCHITECTURES["vit_small_patch16"], "full")
    return path


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    """Lists that leave just one batch of the published 256 to train on."""
    root = tmp_path_factory.mktemp("patches") / "bigearthnet"
    write_bigearthnet(root, patches=290)
    lists = {part: root / "splits" / f"{part}.csv" for part in ("train", "val", "test")}
    lines = [line for path in lists.values() for line in path.read_text().splitlines(keepends=True)]
    for part, chosen in (("test", lines[:8]), ("val", lines[8:16]), ("train", lines[16:])):
        lists[part].write_text("".join(chosen))
    assert len(lines) >= 256 + 16
    return root


@pytest.mark.slow
def test_command_line_2_verbatim(checkpoint, tmp_path):
    """The notes' flags; the world, the input side and the number of steps are small, so that it ends."""
    (tmp_path / checkpoint.name).symlink_to(checkpoint)
    flags = shlex.split(SECOND.replace("DIR", str(shared_world(33))).replace("OUT", "out"))
    small = ("--input_size", "32", "--max_steps", "2", "--results_dir", "results", "--cache_dir", "cache")
    done = call("finetune", "--dataset", "eurosat", *flags, *small, cwd=tmp_path)
    assert done.code == 0, done.err
    record = only_record(tmp_path / "results")
    assert record["model"]["weights"] | {"sha256": None, "source": ""} == {
        "source": "",
        "sha256": None,
        "used": 150,
        "dropped": 107,
        "missing": 0,
    }
    recipe = record["config"]["recipe"]
    assert (recipe["optimizer"], recipe["lr"], recipe["weight_decay"], recipe["batch_size"]) == (
        "sgd",
        0.01,
        0.001,
        256,
    )
    assert (recipe["head"], record["config"]["model"]["pool"], recipe["recipe"]) == ("bn_linear", "cls", "published")
    assert record["protocol"] == "finetune"
    assert "ignored_flag" in codes(record)
    assert "--fine_tune means nothing for fine-tuning" in done.err
    assert list((tmp_path / "out").glob("events*"))


@pytest.mark.slow
def test_command_line_4_verbatim(checkpoint, patches, tmp_path):
    (tmp_path / checkpoint.name).symlink_to(checkpoint)
    small = ("--data_path", patches, "--input_size", "32", "--max_steps", "4", *FOLDERS)
    done = call("finetune", "--dataset", "bigearthnet", *shlex.split(FOURTH), *small, cwd=tmp_path)
    assert done.code == 0, done.err
    record = only_record(tmp_path / "results")
    assert record["model"]["weights"] | {"sha256": None, "source": ""} == {
        "source": "",
        "sha256": None,
        "used": 148,
        "dropped": 109,
        "missing": 2,
    }
    recipe = record["config"]["recipe"]
    assert recipe["recipe"] == "corrected"  # mixup, which the reference passes and never applies, is applied
    assert recipe["mixup"] == 0.8
    assert "mixed" in codes(record)
    assert record["dataset"]["split"] == "official"
    assert recipe["lr"] == pytest.approx(1e-3 * 512 / 256)
    assert (recipe["drop_path"], recipe["layer_decay"], recipe["optimizer"]) == (0.2, 0.75, "adamw")
    assert record["metrics"]["test"]["map_micro"] is not None


@pytest.mark.parametrize(
    ("dataset", "counts"),
    [
        ("eurosat", (21_571_210, 85_609_738, 303_049_738, 630_526_730)),
        ("bigearthnet", (21_574_675, 85_616_659, 303_058_963, 630_538_259)),
    ],
)
def test_trainable_parameters(dataset, counts):
    """Through the code that builds them, without their tensors."""
    from fgmae_bench.models.build import build_backbone
    from fgmae_bench.train.classification import Classifier, trainable

    card = load_card(dataset)
    for name, expected in zip(FGMAE_ARCHITECTURES, counts, strict=True):
        run = compose("finetune", {"dataset": dataset, "model": name, "weights": "random"}, card)[0]
        with torch.device("meta"):
            backbone = trainable(build_backbone(run.model, 0))
        model = Classifier(backbone.module, backbone.feature_dim, len(card.classes), run.recipe)
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected


def test_what_a_run_leaves(tmp_path):
    done = finetune(shared_world(12), "--epochs", "5", "--checkpoint_seconds", "0", cwd=tmp_path)
    assert done.code == 0, done.err
    record = only_record(tmp_path / "results")
    assert problem_of(record) is None
    assert record == json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["cost"]["gflops"] > 0
    assert record["cost"]["params"] == record["model"]["params_total"]
    lines = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(5))
    assert len({tuple(line) for line in lines}) == 1
    numbered = sorted(path.name for path in (tmp_path / "out").glob(f"checkpoint-{record['run_id'][-10:]}-*.pth"))
    assert [name[-12:] for name in numbered] == ["00000028.pth", "00000029.pth", "00000030.pth"]
    last = torch.load(tmp_path / "out" / "checkpoint-last.pth", weights_only=True)
    assert last["step"] == 30
    assert not (tmp_path / "out" / "checkpoint-best.pth").exists()
    assert {"test_is_val", "synthetic", "small_batch_norm"} <= set(codes(record))
    predictions = load_file(tmp_path / "results" / record["predictions"]["file"])
    assert accuracy_score(predictions["targets"], predictions["logits"].argmax(1)) == pytest.approx(
        record["metrics"]["test"]["oa"]
    )
    assert record["metrics"]["final"] == record["metrics"]["test"] == record["history"][-1]["val"]
    assert record["metrics"]["best"] is None
    assert record["model"]["params_total"] == record["model"]["params_trainable"]
    assert list((tmp_path / "log").glob("events*"))
    again = finetune(shared_world(12), "--config", "out/config.toml", cwd=tmp_path, backbone=())
    assert "is recorded already" in again.err


def test_a_val_split_selects_and_test_is_scored_once(tmp_path):
    done = finetune(shared_world(12), "--split", "random_60_20_20", "--lr", "0.05", "--epochs", "4", cwd=tmp_path)
    assert done.code == 0, done.err
    record = only_record(tmp_path / "results")
    curve = [entry["val"]["oa"] for entry in record["history"]]
    best = record["metrics"]["best"]
    assert best["oa"] == max(curve)
    kept = torch.load(tmp_path / "out" / "checkpoint-best.pth", weights_only=True)
    assert (
        kept["epoch"]
        == best["epoch"]
        == min((i for i, v in enumerate(curve) if v == max(curve)), key=lambda i: record["history"][i]["val"]["loss"])
    )
    scored = finetune(
        shared_world(12), "--config", "out/config.toml", "--eval", "--resume", "auto", cwd=tmp_path, backbone=()
    )
    assert f"oa {record['metrics']['test']['oa']:.4f}" in scored.out
    assert "test_is_val" not in codes(record)


def test_a_record_that_exists_is_said_and_not_repeated(tmp_path):
    assert finetune(shared_world(5), cwd=tmp_path).code == 0
    before = listing(tmp_path)
    again = finetune(shared_world(5), cwd=tmp_path)
    assert again.code == 0
    assert "is recorded already: nothing to do" in again.err
    assert listing(tmp_path) == before


def test_a_grid_of_rates_is_one_run_each(tmp_path):
    done = finetune(shared_world(5), "--lr", "0.01", "0.1", "--epochs", "1", cwd=tmp_path)
    assert done.code == 0, done.err
    assert sorted(record["config"]["recipe"]["lr"] for record in records(tmp_path / "results")) == [0.01, 0.1]
    assert len(list((tmp_path / "out").glob("*/record.json"))) == 2


def test_twice_the_budget_is_another_run_of_twice_the_length(tmp_path):
    for budget in ("1", "2"):
        assert finetune(shared_world(5), "--budget", budget, "--output_dir", f"out{budget}", cwd=tmp_path).code == 0
    assert sorted(len(record["history"]) for record in records(tmp_path / "results")) == [3, 6]


def test_the_corrected_recipe_averages_tokens_behind_a_norm_of_its_own(tmp_path):
    done = finetune(
        shared_world(5),
        "--recipe",
        "corrected",
        "--split",
        "reference",
        "--epochs",
        "1",
        "--warmup_epochs",
        "0",
        cwd=tmp_path,
    )
    assert done.code == 0, done.err
    record = only_record(tmp_path / "results")
    assert record["config"]["model"]["pool"] == "mean"
    assert record["config"]["recipe"]["optimizer"] == "adamw"
    last = torch.load(tmp_path / "out" / "checkpoint-last.pth", weights_only=True)["model"]
    assert "backbone.vit.fc_norm.weight" in last
    assert "backbone.vit.norm.weight" not in last


def test_an_absolute_rate_at_another_batch_leaves_a_note(tmp_path):
    assert finetune(shared_world(5), "--epochs", "1", "--lr", "0.1", cwd=tmp_path).code == 0
    assert "lr_off_rule" in codes(only_record(tmp_path / "results"))


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (("--layer_decay", "0"), "--layer_decay is 0.0; give a share in (0, 1]"),
        (("--layer_decay", "1.5"), "--layer_decay is 1.5; give a share in (0, 1]"),
        (("--accum_iter", "0"), "--accum_iter is 0; give 1 or more"),
        (("--drop_path", "1"), "--drop_path is 1.0; give a number in [0, 1)"),
        (("--mixup", "0.8", "--batch_size", "15"), "--batch_size 15 with --mixup or --cutmix; give an even batch"),
        (("--batch_size", "500"), "is larger than the training split"),
        (("--model", "backscatter_stats", "--layer_decay", "1"), "backscatter_stats"),
        (("--schedule", "linear"), "schedule"),
        (("--max_steps", "0"), "--max_steps is 0"),
        (("--nb_classes", "7"), "--nb_classes is 7"),
        (("--eval", "--resume", "nowhere.pth"), "no checkpoint at nowhere.pth"),
        (("--batch_size", "1"), "one sample has no statistics; give 2 or more, or --head linear"),
        (
            ("--warmup_epochs", "3"),
            "the warm-up is 18 of 18 steps; give a longer schedule or a shorter --warmup_epochs",
        ),
        (("--model", "resnet18", "--pool", "mean", "--layer_decay", "0.9"), "has no blocks of a ViT"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(flags, what, tmp_path):
    before = listing(tmp_path)
    line = said(finetune(shared_world(12), *flags, cwd=tmp_path))
    assert what in line
    kept = {path: content for path, content in listing(tmp_path).items() if not path.startswith("cache")}
    assert kept == before


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """The folder of a run that has ended."""
    folder = tmp_path_factory.mktemp("ended")
    assert finetune(shared_world(5), cwd=folder).code == 0
    return folder


@pytest.mark.parametrize(
    "change",
    [
        ("--model", "vit_tiny_patch16_224", "--input_size", "32"),
        ("--batch_size", "8"),
        ("--weight_decay", "0.01"),
        ("--train_frac", "0.5"),
    ],
)
def test_resuming_another_run_is_refused(change, ended):
    line = said(finetune(shared_world(5), *change, "--resume", "auto", cwd=ended))
    assert "belongs to" in line
    assert "model, data, batch or recipe differ" in line


def test_a_truncated_checkpoint_is_refused_by_name_and_passed_over_by_auto(tmp_path):
    assert finetune(shared_world(12), "--epochs", "4", "--checkpoint_seconds", "0", cwd=tmp_path).code == 0
    expected = only_record(tmp_path / "results")
    for path in (tmp_path / "results" / "records").rglob("*.json"):
        path.unlink()
    last = tmp_path / "out" / "checkpoint-last.pth"
    newest = sorted((tmp_path / "out").glob("checkpoint-*-0*.pth"))[-1]
    content = last.read_bytes()
    for path in (last, newest):
        path.unlink()
        path.write_bytes(content[: len(content) // 2])
    named = said(finetune(shared_world(12), "--epochs", "4", "--resume", str(last), cwd=tmp_path))
    assert "is not a readable checkpoint of a run" in named
    resumed = finetune(shared_world(12), "--epochs", "4", "--resume", "auto", cwd=tmp_path)
    assert resumed.code == 0, resumed.err
    assert "it is passed over" in resumed.err
    assert "goes on after step 23 of 24" in resumed.err
    again = only_record(tmp_path / "results")
    assert again["metrics"] == expected["metrics"]


def test_an_image_without_a_number_is_left_out_and_counted(tmp_path):
    import rasterio

    root = small_world(tmp_path, per_class=6)
    image = next(root.rglob("*.tif"))
    with rasterio.open(image, "r+") as file:
        file.write(np.full((2, 64, 64), np.nan, np.float32))
    done = finetune(root, "--batch_size", "8", cwd=tmp_path)
    assert done.code == 0, done.err
    (left_out,) = (n["text"] for n in only_record(tmp_path / "results")["notes"] if n["code"] == "invalid_left_out")
    assert left_out.startswith("1 image")
    assert image.stem in left_out


def test_a_loss_that_becomes_infinite_is_recorded_as_diverged(tmp_path):
    done = finetune(shared_world(5), "--lr", "1e30", "--epochs", "3", cwd=tmp_path)
    assert done.code == 1
    record = only_record(tmp_path / "results")
    assert f"error: {record['run_id']}: the loss became" in done.err
    assert "in step" in done.err
    assert done.out == f"{record['run_id']}  diverged: no scores  [synthetic data]\n"
    assert record["status"] == "diverged"
    assert "diverged" in codes(record)
    assert record["predictions"] is None
    assert problem_of(record) is None


def test_out_of_memory_names_a_batch_of_the_same_effective_size(tmp_path, monkeypatch):
    from fgmae_bench.train.classification import ClassificationJob

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(ClassificationJob, "loss", full)
    before = listing(tmp_path)
    done = finetune(shared_world(12), "--accum_iter", "2", cwd=tmp_path)
    assert done.code == 1
    assert "out of memory at --batch_size 16; use --batch_size 8 --accum_iter 4" in done.err
    assert "Traceback" not in done.err
    assert {path for path in listing(tmp_path) if not path.startswith("cache")} == set(before)


@pytest.mark.parametrize(
    "flags", [("--mixup", "0.8"), ("--recipe", "corrected", "--clip_grad", "0", "--warmup_epochs", "1")]
)
def test_config_toml_runs_the_same_run_again(flags, tmp_path):
    assert finetune(shared_world(5), *flags, cwd=tmp_path).code == 0
    again = finetune(shared_world(5), "--config", "out/config.toml", cwd=tmp_path, backbone=())
    assert "is recorded already" in again.err
    assert len(records(tmp_path / "results")) == 1


def test_another_division_of_the_batch_is_another_run_where_it_matters(tmp_path):
    for head, ids in (("bn_linear", 2), ("linear", 1)):
        for batch, accum in (("16", "1"), ("8", "2")):
            flags = (
                "--head",
                head,
                "--batch_size",
                batch,
                "--accum_iter",
                accum,
                "--epochs",
                "1",
                "--output_dir",
                f"{head}{batch}",
            )
            assert finetune(shared_world(5), *flags, "--results_dir", head, cwd=tmp_path).code == 0
        assert len(records(tmp_path / head)) == ids


VAL = ("--split", "random_60_20_20", "--epochs", "4", "--lr", "0.05")


def interrupted(tmp_path, monkeypatch, step, *flags):
    """A run that is asked to stop after a step."""
    from fgmae_bench.train import run as module

    class Stop:
        def __bool__(self):
            return bool(loops) and loops[0].step >= step

    loops, real = [], module.Loop
    monkeypatch.setattr(module, "Loop", lambda **how: loops.append(real(**how)) or loops[0])
    monkeypatch.setattr(module, "listening", lambda: contextlib.nullcontext(Stop()))
    assert finetune(shared_world(12), *flags, cwd=tmp_path).code == 130
    monkeypatch.undo()


@pytest.mark.slow
@pytest.mark.parametrize("step", [5, 9, 12])  # within an epoch, and at its end, before its evaluation
def test_a_run_that_was_stopped_goes_on_in_another_folder_with_its_best_model(step, tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    whole.mkdir()
    assert finetune(shared_world(12), *VAL, cwd=whole).code == 0
    expected = only_record(whole / "results")
    interrupted(tmp_path, monkeypatch, step, *VAL, "--checkpoint_seconds", "1e9")
    (tmp_path / "out" / "checkpoint-best.pth").unlink(missing_ok=True)
    other = ("--seed", "7", "--epochs", "2", "--output_dir", "elsewhere")
    assert finetune(shared_world(12), *VAL, *other, cwd=tmp_path).code == 0  # its best model stands in the way
    flags = ("--resume", "out/checkpoint-last.pth", "--output_dir", "elsewhere")
    assert finetune(shared_world(12), *VAL, *flags, cwd=tmp_path).code == 0
    record = json.loads((tmp_path / "elsewhere" / "record.json").read_text())
    assert record["metrics"] == expected["metrics"]
    assert [entry["train_loss"] for entry in record["history"]] == [
        entry["train_loss"] for entry in expected["history"]
    ]


def test_a_divergence_in_the_last_step_is_no_result(tmp_path):
    done = finetune(shared_world(5), "--max_steps", "1", "--lr", "1e38", "--checkpoint_seconds", "0", cwd=tmp_path)
    assert done.code == 1
    assert only_record(tmp_path / "results")["status"] == "diverged"


def test_one_rate_of_a_grid_that_diverges_does_not_end_the_others(tmp_path):
    done = finetune(shared_world(5), "--lr", "1e30", "0.01", cwd=tmp_path)
    assert done.code == 1
    assert {record["status"] for record in records(tmp_path / "results")} == {"done", "diverged"}
    again = finetune(shared_world(5), "--lr", "1e30", "0.01", cwd=tmp_path)
    assert again.code == 0
    assert "is recorded already as diverged" in again.err


def test_steps_and_epochs_of_the_history_are_those_of_the_training(tmp_path):
    assert finetune(shared_world(12), "--epochs", "4", "--eval_every", "2", cwd=tmp_path).code == 0
    assert [(e["epoch"], e["step"]) for e in only_record(tmp_path / "results")["history"]] == [(1, 12), (3, 24)]


def test_stochastic_depth_that_a_backbone_does_not_have_is_not_recorded(tmp_path):
    flags = ("--model", "test_resnet", "--pool", "mean", "--layer_decay", "1", "--drop_path", "0.3", "--epochs", "1")
    assert finetune(shared_world(5), *flags, cwd=tmp_path).code == 0
    record = only_record(tmp_path / "results")
    assert record["config"]["recipe"]["drop_path"] in (0.0, 0.3)
    assert ("drop_path" in codes(record)) == (record["config"]["recipe"]["drop_path"] == 0.0)


@pytest.mark.parametrize("flag", ["--grad_checkpointing", "--deterministic"])
def test_recomputed_activations_and_deterministic_kernels_change_no_number(flag, tmp_path):
    try:
        for flags, place in (((), "plain"), ((flag,), "other")):
            tiny = ("--model", "test_vit", "--amp", "off", "--results_dir", place, "--output_dir", f"out-{place}")
            assert finetune(shared_world(5), *tiny, *flags, cwd=tmp_path).code == 0
    finally:
        torch.use_deterministic_algorithms(False)
    plain, other = (only_record(tmp_path / place) for place in ("plain", "other"))
    assert other["run_id"] == plain["run_id"]
    for a, b in zip(plain["history"], other["history"], strict=True):
        assert b["train_loss"] == pytest.approx(a["train_loss"], rel=1e-5)


def test_activations_cannot_be_recomputed_where_the_backbone_does_not_offer_it(tmp_path):
    (tmp_path / "plain_model.py").write_text("import torch\ndef make():\n    return torch.nn.Conv2d(2, 8, 8, 8)\n")
    flags = ("--model", "plain_model:make", "--layer_decay", "1", "--grad_checkpointing")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{REPOSITORY}", "PYTHONDONTWRITEBYTECODE": "1"}
    arguments = ("--dataset", "eurosat", "--data_path", shared_world(5), *TINY, *FOLDERS, *flags)
    done = preloaded.run(["-m", "fgmae_bench.finetune", *arguments], cwd=tmp_path, env=environment)
    assert done.returncode == 2
    assert "--grad_checkpointing: plain_model:make does not offer it; leave it out" in done.stderr


@pytest.mark.slow
def test_two_runs_into_one_folder_at_once(tmp_path):
    flags = ("--checkpoint_seconds", "0", "--amp", "off", "--epochs", "60")
    arguments = ("--dataset", "eurosat", "--data_path", shared_world(12), *TINY, *FOLDERS, *flags)
    first = preloaded.Process(["-m", "fgmae_bench.finetune", *arguments], cwd=tmp_path, stdout=DEVNULL, stderr=DEVNULL)
    wait_until((tmp_path / "out" / "checkpoint-last.pth").exists, first)
    first.send_signal(signal.SIGSTOP)  # it holds the folder and gets no further
    try:
        line = said(finetune(shared_world(12), "--epochs", "60", "--amp", "off", cwd=tmp_path))
        assert "another run is training into out; give another --output_dir" in line
    finally:
        first.send_signal(signal.SIGTERM)
        first.send_signal(signal.SIGCONT)
        assert first.wait(HANG) == 130
