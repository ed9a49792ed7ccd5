"""The suite on a real Slurm: jobs requeued and killed end with the records of an undisturbed suite."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from commands import REPOSITORY, records
from preloaded import HANG
from same_run import essence
from suite_world import experiment, started, suite

TOOL = REPOSITORY.parent / "shared" / "tools" / "slurm-local"
SLOW = (
    'model = "held_model:make", input_size = 32, features = "stream", amp = "off", epochs = 20, checkpoint_seconds = 0'
)
# As long as a file `hold` is in the folder of the suite, a run needs minutes after its second epoch: no look at the queue
# comes too late for it.
MODEL = """
import os, time
import timm, torch

class Held(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = timm.create_model("vit_tiny_patch16_224", in_chans=2, num_classes=0, img_size=32)
        self.batches = 0

    def forward(self, images):
        self.batches += 1
        if self.batches > 20 and os.path.exists("hold"):
            time.sleep(2)
        return self.inner(images)

def make():
    return Held()
"""


def ask(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, timeout=HANG).stdout


@pytest.fixture(scope="module")
def slurm():
    """A cluster of this one node, started by the tool beside the checkout where there is none; or skip with the reason."""
    nodes = ask("sinfo", "-h", "-N", "-o", "%n").split() if shutil.which("sinfo") else []
    if nodes:
        if nodes != [socket.gethostname().split(".")[0]]:
            pytest.skip("the Slurm that answers here has other nodes, which do not see the test's folder")
        return
    if not TOOL.exists():
        pytest.skip("no Slurm answers here, and the tool that starts one is not beside the checkout")
    if os.geteuid() != 0:
        pytest.skip("no Slurm answers here, and starting one needs root")
    try:
        with open(Path(tempfile.gettempdir()) / "slurm-for-tests.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a second worker of pytest finds it running
            done = subprocess.run([TOOL, "up"], capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        pytest.skip("Slurm could not be installed within 300 s")
    if done.returncode:
        pytest.skip(f"Slurm cannot be started here: {done.stderr.strip()[-200:]}")


def by_seed(folder: Path) -> dict[int, dict]:
    return {record["config"]["recipe"]["seed"]: essence(record) for record in records(folder)}


def held_experiment(folder: Path, *runs: str) -> Path:
    (folder / "held_model.py").write_text(MODEL)
    return experiment(folder, *runs)


def running_after_its_first_epoch(tmp_path: Path, seed: int, process: subprocess.Popen[str]) -> str:
    """Job id of the run of a seed, once it runs and has a checkpoint; fails where the suite `process` ends before."""
    end = time.monotonic() + HANG
    while time.monotonic() < end:
        time.sleep(0.1)
        assert process.poll() is None, process.communicate()[0]
        log = next((tmp_path / "results/suite/logs").glob(f"*seed-{seed}-*.log"), None)
        if log and next((tmp_path / "runs").glob(f"*seed-{seed}-*/checkpoint-last.pth"), None):
            jobs = [
                json.loads(path.read_text())["job"]
                for path in (tmp_path / "results/suite/jobs").glob(f"{log.stem[-10:]}*.json")
            ]
            alive = dict(line.split() for line in ask("squeue", "--me", "-h", "-r", "-o", "%i %T").splitlines())
            if jobs and alive.get(jobs[0]) == "RUNNING":
                return jobs[0]
    logs = "\n".join(log.read_text()[-1000:] for log in (tmp_path / "results/suite/logs").glob("*.log"))
    raise AssertionError(f"seed {seed} never ran: {ask('sinfo')}\n{ask('squeue')}\n{logs}")


@pytest.mark.slow
def test_a_requeued_and_a_killed_job_end_with_the_undisturbed_records(tmp_path, slurm):
    path = held_experiment(tmp_path, SLOW + ", seed = [1, 2, 3]")
    (tmp_path / "hold").touch()
    process = started("run", path, "--slurm", "--retry", 2, "--max_parallel", 2, cwd=tmp_path, OMP_NUM_THREADS="1")
    try:
        requeued = running_after_its_first_epoch(tmp_path, 1, process)
        subprocess.run(["scontrol", "requeue", requeued], check=True)
        killed = running_after_its_first_epoch(tmp_path, 2, process)
        subprocess.run(["scancel", "--signal=KILL", killed], check=True)
        (tmp_path / "hold").unlink()
        deadline = time.monotonic() + HANG
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(1)
            subprocess.run(
                ["scontrol", "update", f"jobid={requeued}", "StartTime=now"], capture_output=True
            )  # not in two minutes
        assert process.poll() == 0, process.communicate()[0]
    finally:
        process.kill()
        out = process.communicate()[0]
        jobs = [json.loads(note.read_text())["job"] for note in (tmp_path / "results/suite/jobs").glob("*.json")]
        subprocess.run(["scancel", *jobs], capture_output=True)
    assert f"retried  mine: run 0 (seed 2)  Slurm job {killed} ended without a record" in out
    logs = {seed: next((tmp_path / "results/suite/logs").glob(f"*seed-{seed}-*.log")).read_text() for seed in (1, 2)}
    for log in logs.values():
        assert log.count("$ python -m fgmae_bench.linear") >= 2
        assert "goes on after epoch" in log
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    shutil.copy(path, undisturbed)
    shutil.copy(tmp_path / "held_model.py", undisturbed)
    os.environ["OMP_NUM_THREADS"] = "1"
    assert suite("run", path.name, "--max_parallel", 2, cwd=undisturbed).code == 0
    assert by_seed(tmp_path / "results") == by_seed(undisturbed / "results")
    assert suite("run", path, "--slurm", cwd=tmp_path).out == "nothing to do: all 3 runs are recorded\n"


@pytest.mark.slow
def test_a_suite_that_was_stopped_waits_for_its_jobs_and_submits_none_twice(tmp_path, slurm):
    path = experiment(tmp_path, 'model = "backscatter_stats", seed = [1, 2]')
    process = started("run", path, "--slurm", cwd=tmp_path)
    while len(list((tmp_path / "results/suite/jobs").glob("*.json"))) != 2:
        time.sleep(0.1)
        assert process.poll() is None, process.communicate()[0]
    time.sleep(1)
    process.send_signal(2)
    out = process.communicate(timeout=HANG)[0]
    assert process.returncode == 130, out
    again = suite("run", path, "--slurm", cwd=tmp_path)
    assert again.code == 0, again
    assert len(records(tmp_path / "results")) == 2
    assert len(list((tmp_path / "results/suite/slurm").glob("*_submitted.pkl"))) == 2
