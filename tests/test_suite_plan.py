"""What a suite means to run, what it takes for recorded, and every mistake in its files: nothing here starts a run."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import preloaded
import pytest
from commands import REPOSITORY, edited_card, listing, said
from make_records import make_record, store_all
from suite_world import experiment, suite

from fgmae_bench.config.experiments import load_experiment
from fgmae_bench.errors import BenchError
from fgmae_bench.records import record_path
from fgmae_bench.suite.child import start
from fgmae_bench.suite.command import argv, shell_line
from fgmae_bench.suite.expand import expand
from fgmae_bench.suite.identity import Shelf
from fgmae_bench.suite.ledger import Ledger

STATISTICS = 'model = "backscatter_stats"'


def commands(path):
    return expand([load_experiment(path)])


def test_lists_multiply_into_commands_and_rates_stay_together(tmp_path):
    path = experiment(
        tmp_path, f"{STATISTICS}, seed = [1, 2], train_frac = [0.5, 1], lr = [0.1, 0.2], weight_decay = [0, 0.1]"
    )
    found = commands(path)
    assert len(found) == 4
    assert [len(command.points) for command in found] == [4] * 4
    assert len({point.key for command in found for point in command.points}) == 16
    words = argv(found[0])
    assert words[words.index("--lr") : words.index("--lr") + 3] == ["--lr", "0.1", "0.2"]
    assert words[words.index("--seed") + 1] == "1"


def test_a_card_by_its_path_is_that_of_the_working_directory(tmp_path, monkeypatch):
    found = []
    for folder, version in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        edited_card(tmp_path / folder / "card.toml", ("version = 1", f"version = {version}"))
        path = experiment(tmp_path / folder, STATISTICS)
        text = path.read_text()
        kept = [line for line in text.splitlines() if not line.startswith("data_path")]
        path.write_text("\n".join(kept).replace('"eurosat"', '"card.toml"'))
        monkeypatch.chdir(tmp_path / folder)
        (command,) = commands(path)
        found.append((command.card.version, command.place, command.points[0].key))
    assert [each[:2] for each in found] == [(1, tmp_path / "a" / "data"), (2, tmp_path / "b" / "data")]
    assert found[0][2] != found[1][2]


def test_several_processes_start_by_torchrun(tmp_path):
    path = experiment(tmp_path, STATISTICS)
    path.write_text(path.read_text().replace('label = "run 0"', 'label = "run 0"\nnproc_per_node = 2'))
    words = argv(commands(path)[0], "python")
    assert words[:7] == [
        "python",
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        "-m",
        "fgmae_bench.linear",
    ]


def test_runs_that_share_a_bank_follow_each_other(tmp_path):
    flags = ['model = "vit_small_patch16", weights = "fgmae", epochs = {}', STATISTICS + ", epochs = {}"]
    path = experiment(tmp_path, flags[0].format(1), flags[1].format(1), flags[0].format(3), flags[1].format(3))
    assert [command.label for command in commands(path)] == ["run 0", "run 2", "run 1", "run 3"]


def test_a_run_that_two_files_name_is_planned_once(tmp_path):
    first, second = (
        experiment(tmp_path, STATISTICS),
        experiment(tmp_path, STATISTICS, STATISTICS + ", seed = 7", name="other"),
    )
    assert suite("plan", first, second, cwd=tmp_path).out.endswith("2 runs in 2 commands: 0 recorded, 2 to do\n")


def test_plan_prints_plain_commands(tmp_path):
    result = suite("plan", "--commands", experiment(tmp_path, STATISTICS + ", trust_data = true"), cwd=tmp_path)
    words = shlex.split(result.out)
    assert words[:3] == ["python", "-m", "fgmae_bench.linear"]
    assert "--trust_data" in words
    assert words[words.index("--output_dir") + 1].startswith("runs/run-0-")


def planned(tmp_path, flags):
    """An experiment that the records of `make_record` may fill."""
    path = experiment(tmp_path, flags)
    path.write_text(
        path.read_text()
        .replace('features = "cached"\n', "")
        .replace("epochs = 2\n", "")
        .replace('weights = "random"\n', "")
    )
    lines = [line for line in path.read_text().splitlines() if not line.startswith(("data_path", "batch_size"))]
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize(
    ("record", "recorded"),
    [
        ({}, 1),
        ({"batch_size": 32, "world_size": 1}, 1),  # the same effective batch
        ({"seed": 1}, 0),
        ({"lr": 0.2}, 0),
        ({"epochs": 49}, 0),
        ({"weight_decay": 0.0}, 0),
        ({"features": "cached"}, 0),  # the published recipe streams
        ({"split": "spatial"}, 0),
        ({"synthetic": True, "dataset": "eurosat"}, None),
        ({"card_version": 2}, 0),
        ({"train_frac": 0.5}, 0),
        ({"recipe": "corrected"}, 0),
        ({"protocol": "knn"}, 0),
    ],
)
def test_a_record_counts_only_for_the_run_with_its_settings_defaults_included(tmp_path, record, recorded):
    """The plan states batch and model only: seed, rate, epochs and split are those that it would be composed of."""
    path = planned(tmp_path, 'model = "vit_small_patch16", batch_size = 32')
    if recorded is None:  # genuine data, which is not a synthetic world
        (tmp_path / "genuine").mkdir()
        path.write_text(path.read_text().replace('dataset = "eurosat"', 'dataset = "eurosat"\ndata_path = "genuine"'))
    store_all([make_record(**record)], tmp_path / "results")
    result = suite("plan", path, cwd=tmp_path)
    assert f": {recorded or 0} recorded" in result.out


def test_a_broken_record_is_named_and_does_not_count(tmp_path):
    path = planned(tmp_path, 'model = "vit_small_patch16", batch_size = 32')
    (stored,) = store_all([make_record()], tmp_path / "results")
    stored.write_text(stored.read_text()[:100])
    result = suite("plan", path, cwd=tmp_path)
    assert "left out: " in result.out
    assert stored.name in result.out
    assert ": 0 recorded" in result.out


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ('model = "backscatter_stats", dataset = "eurosad"', ["unknown dataset 'eurosad'", "did you mean 'eurosat'"]),
        ("learning_rate = 1", ["runs[0].flags: unknown flag 'learning_rate'"]),
        ('model = "vit_smal_patch16"', ["runs[0].flags.model", "unknown model", "did you mean 'vit_small_patch16'"]),
        ('weights = "fgmea"', ["runs[0].flags.weights", "did you mean 'fgmae'"]),
        ("seed = []", ["runs[0].flags.seed is an empty grid"]),
        ("seed = [1, 1]", ["runs[0].flags.seed holds 1 twice"]),
        ("train_frac = 1.5", ["runs[0].flags", "--train_frac is 1.5"]),
        ("epochs = [1, 0]", ["runs[0].flags", "--epochs is 0"]),
        ("lr = -1", ["--lr is -1"]),
        ("eval = true", ["runs[0].flags.eval is true"]),
        ('probe = "knn"', ["runs[0]: protocol is linear_probe, its flags give knn; set probe or protocol"]),
    ],
)
def test_mistakes_in_a_file_are_one_line_naming_file_and_key_path(tmp_path, monkeypatch, flags, named):
    # a process of its own judges names of models: here one that has torch loaded
    quick = SimpleNamespace(run=lambda words, **how: preloaded.run(words[1:]))
    monkeypatch.setattr("fgmae_bench.suite.expand.subprocess", quick)
    path = experiment(tmp_path, flags)
    before = listing(tmp_path)
    for command in ("plan", "run"):
        line = said(suite(command, path, cwd=tmp_path))
        for part in [path.name, *named]:
            assert part in line
    assert listing(tmp_path) == before


def test_unknown_column_and_repeated_run_are_named(tmp_path):
    path = experiment(tmp_path, STATISTICS, STATISTICS + ", batch_size = 8, accum_iter = 2")
    assert "runs[1] (run 1) repeats runs[0]" in said(suite("plan", path, cwd=tmp_path))
    path = experiment(tmp_path, STATISTICS)
    path.write_text(path.read_text().replace('"oa"]', '"ao"]'))
    assert "unknown column 'ao'" in said(suite("plan", path, cwd=tmp_path))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--only", "nobody"], "no run is named so"),
        (["--set", "seed=3"], "not an execution flag"),
        (["--set", "nonsense"], "is not FLAG=VALUE"),
        (["--set", "eval=true"], "--set eval is true, which records nothing"),
        (["--set", "resume=a.pth"], "--set resume is a.pth"),
        (["--max_parallel", 0], "--max_parallel is 0"),
        (["--timeout", 0], "--timeout is 0"),
        (["--partition", "gpu"], "add --slurm"),
        (["--gpu", "1"], "unknown flag '--gpu'"),
    ],
)
def test_bad_flags_of_the_suite_are_one_line(tmp_path, words, named):
    assert named in said(suite("run", experiment(tmp_path, STATISTICS), *words, cwd=tmp_path))


def with_gpus(folder, monkeypatch, count):
    """A machine with so many GPUs, as far as nvidia-smi says it."""
    (folder / "bin").mkdir()
    lines = [f"echo 'GPU {i}: NVIDIA H100 (UUID: GPU-{i}a2b3c4d)'" for i in range(count)]
    (folder / "bin" / "nvidia-smi").write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    (folder / "bin" / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")


def test_gpus_that_the_machine_has_not_are_refused(tmp_path, monkeypatch):
    path = experiment(tmp_path, STATISTICS)
    with_gpus(tmp_path, monkeypatch, 2)
    line = said(suite("run", path, "--gpus", "0,99", cwd=tmp_path))
    assert line == "error: --gpus 0,99: there is no GPU 99, this machine has 2; choose from 0, 1"
    assert "there is no GPU GPU-7" in said(suite("run", path, "--gpus", "GPU-7", cwd=tmp_path))
    for known in ("0,1", "1", "GPU-1a2b", "none"):
        assert suite("run", path, "--gpus", known, "--dry_run", cwd=tmp_path).code == 0
    (tmp_path / "bin" / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")  # no driver
    assert "this machine has 0; leave --gpus out, or use --slurm" in said(
        suite("run", path, "--gpus", "0", cwd=tmp_path)
    )
    assert suite("run", path, "--gpus", "0", "--slurm", "--dry_run", cwd=tmp_path).code == 0, (
        "the nodes have GPUs of their own"
    )


def test_a_protocol_that_only_the_card_decides_is_held_against_the_experiment(tmp_path):
    card = edited_card(
        tmp_path / "card.toml", ("[recipes.linear.published]", '[recipes.linear.published]\nprobe = "knn"\n#')
    )
    path = experiment(tmp_path, STATISTICS)
    path.write_text(path.read_text().replace('dataset = "eurosat"', f'dataset = "{card}"'))
    assert "runs[0]: protocol is linear_probe, its flags give knn" in said(suite("plan", path, cwd=tmp_path))


def test_a_receipt_of_another_protocol_is_not_believed(tmp_path):
    path = planned(tmp_path, 'model = "vit_small_patch16", batch_size = 32')
    stored = store_all([make_record(), make_record(protocol="knn", seed=1)], tmp_path / "results")
    key = commands(path)[0].points[0].key
    receipt = tmp_path / "results" / "suite" / "receipts" / f"{key}.json"
    receipt.parent.mkdir(parents=True)
    of = {file.parent.name: str(file.relative_to(tmp_path / "results")) for file in stored}
    for protocol, recorded in (("linear_probe", 1), ("knn", 0)):
        receipt.write_text(json.dumps({"run_id": "x", "record": of[protocol], "label": "x"}))
        assert f": {recorded} recorded" in suite("plan", path, cwd=tmp_path).out
        next(file for file in stored if file.parent.name == "linear_probe").unlink(missing_ok=True)


def test_more_processes_than_gpus_are_refused_before_anything_runs(tmp_path, monkeypatch):
    with_gpus(tmp_path, monkeypatch, 4)
    path = experiment(tmp_path, STATISTICS)
    path.write_text(
        path.read_text()
        .replace('device = "cpu"\n', "")
        .replace('label = "run 0"', 'label = "run 0"\nnproc_per_node = 2')
    )
    assert "runs[0].nproc_per_node is 2, the suite has 1 GPUs" in said(suite("run", path, "--gpus", "3", cwd=tmp_path))


@pytest.mark.slow
def test_2000_runs_with_1000_records_plan_with_little_work_and_memory_and_without_torch(tmp_path):
    """Work is counted in calls of functions: a thousand records for each of two thousand runs would be millions."""
    path = planned(tmp_path, f'model = "vit_small_patch16", batch_size = 32, seed = {list(range(2000))}')
    store_all([make_record(seed=seed, history_epochs=10) for seed in range(1000)], tmp_path / "results")
    code = (
        "import sys; sys.argv, calls = ['suite', 'plan', sys.argv[1]], [0]\n"
        "from fgmae_bench.suite.__main__ import main\n"
        "def look(frame, event, argument): calls[0] += event == 'call'\n"
        "sys.setprofile(look); main(); sys.setprofile(None)\n"
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1]\n"  # ru_maxrss is the parent's
        "print(calls[0], int(peak) / 1024, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(REPOSITORY)},
        check=True,
    )
    *_, counts, last = done.stdout.splitlines()
    assert counts == "2000 runs in 2000 commands: 1000 recorded, 1000 to do"
    calls, megabytes, torch = last.split()
    assert int(calls) < 1_500_000  # measured: 720,000
    assert float(megabytes) < 300
    assert torch == "False"


@pytest.mark.parametrize(
    "path",
    sorted(path for folder in (".", "demo") for path in (REPOSITORY / "experiments" / folder).glob("*.toml")),
    ids=lambda path: path.stem,
)
def test_shipped_experiments_expand(path: Path) -> None:
    assert commands(path)


# --- what strangers and other users leave in a results folder


def test_a_line_end_in_a_value_leaves_a_command_on_one_line(tmp_path, capsys):
    path = experiment(tmp_path, f'{STATISTICS}, log_dir = "a\\nb\\u001b[2J"')
    assert suite("plan", "--commands", path, cwd=tmp_path).code == 0
    (command,) = commands(path)
    line = shell_line(command)
    assert "\n" not in line
    assert "\x1b" not in line
    read = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True).stdout.split("\0")
    assert read[:-1] == argv(command, "python")


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_planted_locks_and_logs_are_refused_and_followed_nowhere(tmp_path, kind):
    (command,) = commands(experiment(tmp_path, STATISTICS))
    ledger, victim = Ledger(tmp_path / "results"), tmp_path / "victim"
    ledger.prepare()
    victim.write_text("precious")
    for path in (ledger.root / "locks" / f"{command.points[0].key}.lock", ledger.log_of(command)):
        path.symlink_to(victim) if kind == "link" else os.mkfifo(path)
    with pytest.raises(BenchError, match="is not a regular file of its own"):
        ledger.claim(list(command.points))
    with pytest.raises(BenchError, match="is not a regular file of its own"):
        start(command, ledger.log_of(command), [], (), None)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize(
    "text", ["[" * 50_000, "[1]", "{}", '{"record": [1], "reason": {}, "job": 3}', '{"record": "a\\u0000"}']
)
def test_receipts_failures_and_jobs_of_others_are_absent(tmp_path, text):
    (command,) = commands(experiment(tmp_path, STATISTICS))
    ledger = Ledger(tmp_path / "results")
    for kind, name in (("receipts", command.points[0].key), ("failures", command.key), ("jobs", command.key)):
        (ledger.root / kind).mkdir(parents=True)
        (ledger.root / kind / f"{name}.json").write_text(text)
    ledger.refresh()
    assert (ledger.receipts, ledger.failure(command), ledger.job(command)) == ({}, None, None)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("config", "recipe", "seed"), [1]),
        (("config", "model", "model"), ["a"]),
        (("config", "recipe", "batch_size"), "x"),
        (("environment", "world_size"), None),
        (("notes",), [{"code": ["a"]}]),
        (("model", "contract"), [1]),
        (("run_id",), "another"),
    ],
)
def test_a_hostile_record_is_named_and_the_suite_goes_on(tmp_path, place, value):
    good, bad = make_record(), make_record(seed=7)
    paths = [record_path(tmp_path, record) for record in (good, bad)]
    *above, last = place
    part = bad
    for key in above:
        part = part[key]
    part[last] = value
    for path, record in zip(paths, (good, bad), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record))
    (paths[0].parent / f"._{paths[0].name}").write_bytes(b"\0")
    shelf = Shelf(tmp_path)
    shelf.refresh()
    assert shelf.broken == [f"{paths[1]}: not a readable record of that name"]
    assert shelf.models == {good["config"]["model"]["model"]}
