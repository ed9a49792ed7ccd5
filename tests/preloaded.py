"""Processes that begin with torch loaded: forks of a server that imported the libraries once.

`Process(["-m", "fgmae_bench.linear", ...])` is close to `subprocess.Popen([sys.executable, "-m", ...], text=True)` and
saves the seconds in which a new interpreter imports torch. The server is started at the first use, one for each process
of pytest, and ends with it. Where the start of a process is itself the question, use `subprocess`.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, CompletedProcess, TimeoutExpired
from typing import Any, TextIO

REPOSITORY = Path(__file__).resolve().parents[1]
LIBRARIES = """
torch torch.distributed torch.utils.tensorboard torchvision timm rasterio scipy.stats scipy.special cv2 lmdb psutil
safetensors.torch safetensors.numpy PIL.Image pyarrow.parquet pyarrow.csv pyarrow.compute pandas sklearn.linear_model
sklearn.metrics sklearn.model_selection sklearn.neighbors fastjsonschema jsonschema tomli_w matplotlib.figure
huggingface_hub
"""
# pyarrow's allocator would start a thread, which a fork does not have
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
LARGEST_REQUEST = 1 << 17  # bytes of one message: arguments and environment
HANG = 600.0  # seconds after which a test takes a process for hung, however busy the machine

# --- the side of the tests


class Process:
    """A fork of the server that runs `arguments` as `python <arguments>` would: `-m module …`, `-c code …` or a script.

    `stdout` and `stderr` are PIPE or DEVNULL, `stderr` also STDOUT; what comes through a pipe is text.
    """

    def __init__(
        self,
        arguments: list[Any],
        *,
        cwd: Path | str = ".",
        env: Mapping[str, str] | None = None,
        stdout: int = PIPE,
        stderr: int = PIPE,
    ) -> None:
        self.arguments, self.returncode = [str(word) for word in arguments], None
        here = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"} | dict(os.environ if env is None else env)
        self.stdout, out = _stream(stdout)
        self.stderr, error = (None, os.dup(out)) if stderr == STDOUT else _stream(stderr)
        self._ended, ended = os.pipe()
        request = {"arguments": self.arguments, "cwd": str(Path(cwd).resolve()), "environment": here}
        self.pid = _ask(request, [out, error, ended])
        for number in (out, error, ended):
            os.close(number)

    def _look(self, seconds: float | None) -> int | None:
        """The exit code, waiting `seconds` for it (None: without limit); None while the process runs."""
        if self.returncode is None and select.select([self._ended], [], [], seconds)[0]:
            said = os.read(self._ended, 32)
            assert said, "the server of preloaded processes has ended"
            self.returncode = int(said)
            os.close(self._ended)
        return self.returncode

    def poll(self) -> int | None:
        """The exit code, minus the signal where one ended the process; None while it runs."""
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code. Raises TimeoutExpired."""
        code = self._look(timeout)
        if code is None:
            raise TimeoutExpired(self.arguments, timeout or 0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All that is left to read of both pipes, once the process has ended. Raises TimeoutExpired."""
        end, texts = None if timeout is None else time.monotonic() + timeout, ["", ""]

        def read(number: int, stream: TextIO) -> None:
            texts[number] = stream.read()

        streams = [(number, stream) for number, stream in enumerate((self.stdout, self.stderr)) if stream is not None]
        readers = [threading.Thread(target=read, args=pair, daemon=True) for pair in streams]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(None if end is None else max(0.0, end - time.monotonic()))
            if reader.is_alive():
                raise TimeoutExpired(self.arguments, timeout or 0)
        self.wait(None if end is None else max(0.0, end - time.monotonic()))
        return texts[0], texts[1]

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


def wait_until(condition: Callable[[], object], process: Process | subprocess.Popen[Any] | None = None) -> None:
    """Wait until `condition()` holds; fails when `process` ends before, or after HANG seconds."""
    end = time.monotonic() + HANG
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def run(arguments: list[Any], *, timeout: float = HANG, **more: Any) -> CompletedProcess[str]:
    """Run a preloaded process to its end; `timeout` only catches one that hangs."""
    process = Process(arguments, **more)
    try:
        out, error = process.communicate(timeout)
    finally:
        process.kill()
    return CompletedProcess(process.arguments, process.wait(), out, error)


def run_ranks(count: int, arguments: list[Any], *, timeout: float = HANG, **more: Any) -> list[CompletedProcess[str]]:
    """`torchrun --nproc_per_node=<count> <arguments>`: the same environment and store, each rank a preloaded process."""
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # a port of the system's choice
    shared = {
        **(more.pop("env", None) or os.environ),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "GROUP_WORLD_SIZE": "1",
        "TORCHELASTIC_RUN_ID": "test",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    ranks = [
        Process(arguments, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}, **more) for rank in range(count)
    ]
    try:
        texts = [rank.communicate(timeout) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    return [CompletedProcess(rank.arguments, rank.wait(), *said) for rank, said in zip(ranks, texts, strict=True)]


def _stream(kind: int) -> tuple[TextIO | None, int]:
    """(what a test reads, what the process writes to)."""
    if kind == DEVNULL:
        return None, os.open(os.devnull, os.O_RDWR)
    assert kind == PIPE
    ours, theirs = os.pipe()
    return open(ours, encoding="utf-8", errors="replace"), theirs


@functools.cache
def _server() -> socket.socket:
    """The connection to the server, which is started by the first call; it ends when the connection does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | ENVIRONMENT
    command = [sys.executable, __file__, str(theirs.fileno())]
    server = subprocess.Popen(
        command, pass_fds=[theirs.fileno()], env=environment, stdin=DEVNULL, stdout=DEVNULL, start_new_session=True
    )
    theirs.close()
    atexit.register(lambda: (ours.close(), server.wait()))
    return ours


_ONE_AT_A_TIME = threading.Lock()


def _ask(request: dict[str, Any], numbers: list[int]) -> int:
    """Process id of the fork that the server makes for `request`, with three open files: out, error, exit code."""
    message = json.dumps(request).encode()
    assert len(message) < LARGEST_REQUEST
    with _ONE_AT_A_TIME:
        socket.send_fds(_server(), [message], numbers)
        said = _server().recv(32)
    assert said, "the server of preloaded processes has ended"
    return int(said)


# --- the side of the server


def _serve(connection: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Fork for each request, and report how forks end. Returns in a fork, with its request; in the server None."""
    running: dict[int, tuple[int, int]] = {}  # pidfd -> (process id, where its exit code is written)
    while True:
        for ready in select.select([connection, *running], [], [])[0]:
            if ready is not connection:
                pid, ended = running.pop(ready)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with contextlib.suppress(BrokenPipeError):
                    os.write(ended, str(code).encode())
                os.close(ended)
                os.close(ready)
                continue
            message, numbers, _, _ = socket.recv_fds(connection, LARGEST_REQUEST, 3)
            if not message:  # the tests have ended
                for pid, _ in running.values():
                    os.kill(pid, signal.SIGKILL)
                return None
            *streams, ended = numbers
            pid = os.fork()
            if pid == 0:
                for number in (ended, *running, *(written for _, written in running.values())):
                    os.close(number)
                connection.close()
                return json.loads(message), streams
            for number in streams:
                os.close(number)
            running[os.pidfd_open(pid)] = (pid, ended)
            connection.send(str(pid).encode())


def _become(request: dict[str, Any], streams: list[int]) -> None:
    """Make this fork what a new interpreter would be, and run what was asked."""
    for number, stream in enumerate(streams, 1):
        os.dup2(stream, number)
        os.close(stream)
    # the server's own are wrapped around what can be sought in; a pipe cannot
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    if (threads := os.environ.get("OMP_NUM_THREADS", "1")) != "1":
        importlib.import_module("torch").set_num_threads(int(threads))
    kind, *rest = request["arguments"]
    named = kind in ("-m", "-c")
    first = os.getcwd() if named else str(Path(kind).resolve().parent)
    sys.path[:1] = [first, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = ["-c", *rest[1:]] if kind == "-c" else rest if named else [kind, *rest]
    if kind == "-m":
        _end(lambda: runpy.run_module(rest[0], run_name="__main__", alter_sys=True))
    elif kind == "-c":
        sys.modules["__main__"] = types.ModuleType("__main__")
        _end(lambda: exec(compile(rest[0], "<string>", "exec"), vars(sys.modules["__main__"])))
    else:
        _end(lambda: runpy.run_path(kind, run_name="__main__"))


def _end(work: Callable[[], object]) -> None:
    """Do `work` and end as the interpreter would, but without taking every object apart: that would take two seconds."""
    code: object = 0
    try:
        work()
    except KeyboardInterrupt:
        gc.unfreeze()  # libraries would speak of leaks
        raise  # the interpreter ends itself by the signal
    except SystemExit as end:
        code = end.code
    except BaseException:  # noqa: BLE001 (shown as the interpreter shows it)
        sys.excepthook(*sys.exc_info())
        code = 1
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit((code or 0) & 0xFF)


def _main() -> None:
    os.fsync = os.fstat  # type: ignore[assignment]  # as in conftest
    sys.modules["wandb"] = None  # type: ignore[assignment]  # as in fgmae_bench.models: timm imports it for nothing
    for name in LIBRARIES.split():
        importlib.import_module(name)
    del sys.modules["wandb"]
    assert len(os.listdir("/proc/self/task")) == 1, "an import has started a thread: it would be missing in a fork"
    gc.freeze()  # so that a collection in a fork writes into none of the pages that it shares
    work = _serve(socket.socket(fileno=int(sys.argv[1])))
    if work is None:
        os._exit(0)
    _become(*work)


if __name__ == "__main__":
    _main()
