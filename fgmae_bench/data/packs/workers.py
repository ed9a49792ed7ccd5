"""Work done in other processes with its results in order; a worker ends with its parent, however that one dies."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from fgmae_bench.errors import BenchError, RunFailed

LEAVE_SECONDS = 1.0
T = TypeVar("T")
R = TypeVar("R")


def in_order(work: Callable[[T], R], tasks: Iterable[T], workers: int) -> Iterator[R]:
    """Yield `work(task)` of each task in order, computed by `workers` spawned processes; by this one when `workers` is
    0.

    A worker computes its next task while its last result is in use. Raises the BenchError of the first task that has
    one, RunFailed when a process dies.
    """
    if workers == 0:
        yield from map(work, tasks)
        return
    waiting, busy = iter(tasks), deque[_Worker]()
    pool: list[_Worker] = []
    try:
        for task in islice(waiting, workers):
            pool.append(_Worker(work))
            pool[-1].send(task)
        busy.extend(pool)
        while busy:
            worker = busy.popleft()
            result = worker.receive()
            for task in islice(waiting, 1):
                worker.send(task)
                busy.append(worker)
            yield result
    finally:
        for worker in pool:
            worker.pipe.close()  # which ends those that wait for a task
        for worker in pool:
            worker.end()


class _Worker:
    """One process and its pipe. It is only sent a task when it waits for one, so that no two sides wait to send."""

    def __init__(self, work: Callable[[Any], Any]):
        context = multiprocessing.get_context(
            "spawn"
        )  # a forked child would keep the parent's ends of all pipes, and its locks
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, work), daemon=True)
        self.process.start()
        theirs.close()

    def send(self, task: Any) -> None:
        """Hand over a task."""
        with contextlib.suppress(BrokenPipeError):  # receive reports it
            self.pipe.send(task)

    def receive(self) -> Any:
        """The result of the task that was sent."""
        try:
            good, result = self.pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            self.process.join(1)
            raise RunFailed(
                f"a reading process died (exit code {self.process.exitcode}); try fewer --workers"
            ) from error
        if not good:
            raise BenchError(*result)
        return result

    def end(self) -> None:
        """Stop, whatever it does; one that waits for a task may leave by itself, with all that its libraries hold."""
        self.process.join(LEAVE_SECONDS)
        self.process.terminate()
        self.process.join()


def _serve(pipe: Connection, work: Callable[[Any], Any]) -> None:
    """Answer tasks until the parent's end of the pipe is closed, by itself or by its death."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which stops its workers
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            task = pipe.recv()
            try:
                answer = (True, work(task))
            except BenchError as error:
                answer = (False, (error.what, error.todo))
            pipe.send(answer)
