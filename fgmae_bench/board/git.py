"""git as a reader of strangers' repositories: objects are fetched and read, never checked out.

So no hook, filter, attribute, submodule or link of theirs has any effect, and no file of theirs gets a name of theirs
on this disk before it was judged.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fgmae_bench.errors import BenchError
from fgmae_bench.system.endpoint import without_password

MAX_FILES = 500_000
KEPT = ("GIT_SSH", "GIT_SSH_COMMAND", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "GIT_ASKPASS", "GIT_CONFIG_GLOBAL")
SAFE = {
    "GIT_ALLOW_PROTOCOL": "file:https:ssh",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_LFS_SKIP_SMUDGE": "1",
    "LC_ALL": "C",
}
OPTIONS = {
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "core.symlinks": "false",
    "submodule.recurse": "false",
    "fetch.recurseSubmodules": "false",
    "fetch.fsckObjects": "true",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "http.lowSpeedLimit": "1000",
    "http.lowSpeedTime": "60",
}
ADDRESS = re.compile(r"https://[^\s]+|ssh://[^\s-][^\s]*|[\w.]+@[\w.-]+:[^\s]+")
BRANCH = re.compile(r"[A-Za-z0-9][\w./+-]*")
KINDS = {"100644": "file", "100755": "file", "120000": "symbolic link", "160000": "submodule"}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file of a store: its path with `/`, what kind it is (`file` or another word), and its bytes."""

    path: str
    kind: str
    size: int
    blob: str = ""


@dataclass(frozen=True, kw_only=True)
class Commit:
    """Who brought a file in, with which commit, and when (ISO 8601)."""

    who: str
    commit: str
    when: str


def require_address(source: str) -> str:
    """The address that git is given; raises BenchError on any other scheme, and on a folder without a repository."""
    if ADDRESS.fullmatch(source):
        return source
    if "://" in source or "::" in source or source.startswith("-"):
        raise BenchError(
            f"{source} is not an address of a store", "give https://…, ssh://…, user@host:path or a folder"
        )
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise BenchError(f"{source} does not exist", "give the folder or the address of a store")
    if not (folder / ".git").exists() and not ((folder / "objects").is_dir() and (folder / "HEAD").is_file()):
        raise BenchError(f"{source} is not a git repository", "give a store's clone, or its address")
    return str(folder.resolve())


class Objects:
    """One commit of a repository, whose objects are in a bare repository of our own at `folder`."""

    def __init__(self, folder: Path, commit: str):
        self.folder, self.commit = folder, commit

    def entries(self) -> list[Entry]:
        """Every file of the commit; raises BenchError where there are too many."""
        listed = _git(self.folder, "ls-tree", "-r", "-z", "-l", "--full-tree", self.commit)
        found = []
        for line in listed.split(b"\0")[:-1]:
            facts, _, path = line.partition(b"\t")
            mode, _, blob, size = facts.decode("ascii").split()
            name = path.decode("utf-8", "backslashreplace")
            kind = KINDS.get(mode, "special file")
            found.append(Entry(path=name, kind=kind, size=int(size) if size.isdecimal() else 0, blob=blob))
        if len(found) > MAX_FILES:
            raise BenchError(f"the store holds {len(found)} files", f"a store of up to {MAX_FILES} is read")
        return found

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        """A reader of blobs: one process of git for all of them."""
        command = [*_command(self.folder), "cat-file", "--batch"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_environment()
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                yield Reader(process.stdin, process.stdout)
            finally:
                process.stdin.close()
                process.stdout.close()

    def authors(self) -> dict[str, Commit]:
        """Of each path below records/: the newest commit that added or changed it."""
        form = "--format=%x01%H%x02%an%x02%cI"
        log = ("log", "--no-renames", "--diff-filter=AM", "--name-only", "-z", form, self.commit, "--", "records")
        found: dict[str, Commit] = {}
        current = None
        for part in _git(self.folder, *log).split(b"\0"):
            text = part.decode("utf-8", "backslashreplace")
            if text.startswith("\1"):
                commit, who, when = text[1:].split("\2", 2)
                current = Commit(who=who[:200], commit=commit, when=when.strip())
            elif text.strip("\n") and current is not None:
                found.setdefault(text.removeprefix("\n"), current)
        return found


class Reader:
    """Reads blobs from a running `git cat-file --batch`."""

    def __init__(self, ask: IO[bytes], answer: IO[bytes]):
        self.ask, self.answer = ask, answer

    def read(self, entry: Entry) -> bytes:
        """The bytes of a file; raises BenchError where the repository lacks them."""
        try:
            self.ask.write(entry.blob.encode() + b"\n")
            self.ask.flush()
            words = self.answer.readline().split()
            if len(words) != 3 or words[1] != b"blob":
                raise OSError
            content = self.answer.read(int(words[2]))
            self.answer.read(1)
        except OSError as error:
            raise BenchError(f"{entry.path}: its content is missing: the store is only half here", AGAIN) from error
        if len(content) != entry.size:
            raise BenchError(f"{entry.path}: its content is missing: the store is only half here", AGAIN)
        return content


AGAIN = "fetch the store anew"


def fetched(address: str, branch: str | None, folder: Path) -> Objects:
    """The newest commit of a repository, brought into a new bare repository at `folder`."""
    if branch is not None and not BRANCH.fullmatch(branch):
        raise BenchError(f"--branch {branch}", "give the name of a branch")
    if shutil.which("git") is None:
        raise BenchError("git is not installed", "install git: a store is a git repository")
    folder.mkdir(parents=True)
    _git(folder, "init", "--quiet", "--bare", "--template=", ".")
    ref = f"refs/heads/{branch}" if branch else "HEAD"
    words = ("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules")
    _git(folder, *words, "--", address, f"+{ref}:refs/heads/store", of=without_password(address))
    return Objects(folder, _git(folder, "rev-parse", "--verify", "refs/heads/store").decode("ascii").strip())


def _git(folder: Path, *words: str, of: str = "") -> bytes:
    """What a command of git says; raises BenchError with the last line of what it complains."""
    done = subprocess.run(
        [*_command(folder), *words], capture_output=True, env=_environment(), stdin=subprocess.DEVNULL, cwd=folder
    )
    if done.returncode:
        said = [line for line in done.stderr.decode("utf-8", "backslashreplace").splitlines() if line.strip()]
        fatal = [line for line in said if line.startswith(("fatal:", "error:"))] or said or ["no reason given"]
        what = f"{of or folder}: git {words[0]} failed ({' '.join(fatal[0].split())[:200]})"
        raise BenchError(
            what, "check the address, the branch and the network; a store that is half copied is fetched anew"
        )
    return done.stdout


def _command(folder: Path) -> list[str]:
    options = [word for name, value in OPTIONS.items() for word in ("-c", f"{name}={value}")]
    return ["git", "--git-dir", str(folder), "--no-pager", *options]


def _environment() -> dict[str, str]:
    """The user's environment without what redirects git, so that another repository's is not read."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("GIT_") or key in KEPT}
    return own | SAFE
