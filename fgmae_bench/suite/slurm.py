"""Commands as Slurm job arrays through submitit. What became of a job is read from records and `squeue`, never from
accounting.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from fgmae_bench.errors import BenchError
from fgmae_bench.suite.command import Command
from fgmae_bench.suite.ledger import Ledgers
from fgmae_bench.suite.local import Options, Say, asked_to_stop, run_here


def queued() -> dict[str, str] | None:
    """Job id (`123` or `123_4`) -> state of every job of this user that waits or runs; None where squeue gives no
    answer.
    """
    if shutil.which("squeue") is None:
        return None
    try:
        asked = subprocess.run(
            ["squeue", "--me", "-h", "-r", "-o", "%i %T"], capture_output=True, text=True, timeout=60
        )
    except subprocess.TimeoutExpired:
        return None
    if asked.returncode:
        return None
    return dict(line.split(maxsplit=1) for line in asked.stdout.splitlines() if " " in line)


LOOK_SECONDS = 2.0
SETTLE_SECONDS = 4.0  # after a job has left the queue, until its record must be visible: network file systems lag
LARGEST_ARRAY = 1000  # Slurm's default MaxArraySize is 1001
TIME_LIMITS = 100  # how often a job that ran into its time limit is put back into the queue


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What is asked of Slurm: `minutes` a job, `memory` in GiB, and any other sbatch option by name."""

    max_parallel: int = 256
    retry: int = 0
    timeout: float | None = None
    minutes: int = 240
    partition: str | None = None
    account: str | None = None
    memory: float | None = None
    cpus: int | None = None
    more: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """What runs on the node: the command under its claim, as on any machine. submitit puts it back after its time
    limit.
    """

    command: Command
    timeout: float | None

    def __call__(self) -> None:
        """Run the command unless it is recorded; its failure is noted in the ledger."""
        ledgers = Ledgers([self.command])
        run_here(
            [self.command], ledgers, Options(timeout=self.timeout), lambda state, command, text: print_line(state, text)
        )

    def checkpoint(self) -> Any:
        """What submitit submits again: the same; the run goes on from its own checkpoint."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def print_line(state: str, text: str) -> None:
    """A line in the job's own output, which submitit keeps."""
    print(f"{state} {text}", flush=True)  # noqa: T201 (no logger is set up on the node)


def run_on_slurm(commands: list[Command], ledgers: Ledgers, cluster: Cluster, say: Say) -> dict[str, str]:
    """Submit commands and wait until each is recorded or has failed; the failed ones' reasons by key.

    Jobs of an earlier suite that are still in the queue are waited for, not submitted again. On a signal the jobs go
    on.
    """
    noted = {command.key: job for command in commands if (job := ledgers.of(command).job(command))}
    queue = queued() if noted else {}
    if queue is None:
        raise BenchError(
            f"squeue gives no answer, and {len(noted)} jobs of an earlier suite may be in the queue",
            "try again when it does",
        )
    jobs = {key: job for key, job in noted.items() if job in queue}
    for command in commands:
        if command.key in jobs:
            say("queued", command, f"Slurm job {jobs[command.key]}, submitted before")
    jobs |= submit([command for command in commands if command.key not in jobs], ledgers, cluster, say)
    waiting = {command.key: command for command in commands}
    failed: dict[str, str] = {}
    gone: dict[str, float] = {}
    attempts = dict.fromkeys(waiting, 1)
    with asked_to_stop() as asked:
        while waiting:
            if asked:
                say(
                    "left",
                    next(iter(waiting.values())),
                    f"{len(waiting)} commands stay on Slurm; run the suite again to wait for them",
                )
                raise KeyboardInterrupt
            time.sleep(LOOK_SECONDS)
            alive = queued()
            ledgers.refresh()
            for key, command in list(waiting.items()):
                if not ledgers.of(command).pending(command):
                    say("recorded", waiting.pop(key), f"Slurm job {jobs[key]}")
                elif alive is None or jobs[key] in alive:
                    gone.pop(key, None)
                elif time.monotonic() - gone.setdefault(key, time.monotonic()) > SETTLE_SECONDS:
                    gone.pop(key)
                    reason = why(ledgers, command, jobs[key])
                    if attempts[key] <= cluster.retry:
                        attempts[key] += 1
                        say("retried", command, reason)
                        jobs |= submit([command], ledgers, cluster, say)
                    else:
                        failed[key] = reason
                        say("failed", waiting.pop(key), reason)
    return failed


def why(ledgers: Ledgers, command: Command, job: str) -> str:
    """Why a job that left the queue has no record."""
    ledger = ledgers.of(command)
    logs = f"; log: {ledger.log_of(command)}, {ledger.root / 'slurm'}/{job}_*_log.err"
    return (
        ledger.failure(command)
        or f"Slurm job {job} ended without a record: cancelled, killed or refused by its node{logs}"
    )


def submit(commands: list[Command], ledgers: Ledgers, cluster: Cluster, say: Say) -> dict[str, str]:
    """Submit commands, one array for each number of processes; job ids by key. Raises BenchError where the cluster
    refuses.
    """
    found: dict[str, str] = {}
    for array in _arrays(commands):
        ledger = ledgers.of(array[0])
        for command in array:
            ledgers.of(command).note_failure(command, None)
        ids = _sbatch(
            [Job(command, cluster.timeout) for command in array], str(ledger.root / "slurm"), cluster, array[0]
        )
        for command, job in zip(array, ids, strict=True):
            ledgers.of(command).note_job(command, job)
            found[command.key] = job
            say("queued", command, f"Slurm job {job}")
    return found


def _arrays(commands: list[Command]) -> Iterator[list[Command]]:
    """Commands that want the same of a node, together, in order; never more than an array may hold."""
    together: dict[tuple[int, bool], list[Command]] = {}
    for command in commands:
        together.setdefault((command.processes, command.needs_gpu), []).append(command)
    for group in together.values():
        for first in range(0, len(group), LARGEST_ARRAY):
            yield group[first : first + LARGEST_ARRAY]


def asked_of_slurm(cluster: Cluster, like: Command) -> dict[str, Any]:
    """The parameters of submitit for an array of jobs that want what `like` wants."""
    wanted = {
        "job_name": "fgmae_bench",
        "time": cluster.minutes,
        "nodes": 1,
        "ntasks_per_node": 1,
        "array_parallelism": cluster.max_parallel,
        "partition": cluster.partition,
        "account": cluster.account,
        "mem": cluster.memory and f"{int(cluster.memory * 1024)}MB",
        "cpus_per_task": cluster.cpus,
        "gpus_per_node": like.processes if like.needs_gpu else None,
        "additional_parameters": {"requeue": True, **cluster.more},
    }
    return {name: value for name, value in wanted.items() if value is not None}


def sbatch_lines(commands: list[Command], cluster: Cluster) -> list[str]:
    """The options of sbatch for each array that `submit` would hand in, as lines of a job file."""
    lines = []
    for array in _arrays(commands):
        wanted = asked_of_slurm(cluster, array[0])
        parallel, more = wanted.pop("array_parallelism"), wanted.pop("additional_parameters")
        lines.append(f"# {len(array)} jobs of {array[0].processes} process{'es' if array[0].processes > 1 else ''}")
        if len(array) > 1:
            lines.append(f"#SBATCH --array=0-{len(array) - 1}%{min(len(array), parallel)}")
        for name, value in sorted({**wanted, **more}.items()):
            flag = name.replace("_", "-")
            lines.append(f"#SBATCH --{flag}" if value is True else f"#SBATCH --{flag}={value}")
    return lines


def _sbatch(jobs: list[Job], folder: str, cluster: Cluster, like: Command) -> list[str]:
    import submitit

    try:
        executor = submitit.SlurmExecutor(folder=folder, max_num_timeout=TIME_LIMITS)
        executor.update_parameters(**asked_of_slurm(cluster, like))
        with executor.batch():
            submitted = [executor.submit(job) for job in jobs]
        return [str(job.job_id) for job in submitted]
    except (
        submitit.core.utils.FailedJobError,
        submitit.core.utils.FailedSubmissionError,
        RuntimeError,
        OSError,
    ) as error:
        message = " ".join(str(error).split())
        gpus = "generic resource" in message
        todo = (
            "pass --set device=cpu where there are no GPUs to ask for"
            if gpus
            else "check --partition, --time, --mem and sinfo"
        )
        raise BenchError(f"the cluster refused the job ({message[-300:]})", todo) from error
