"""Files from the hub or an address, whole and verified or not at all: downloads that go on after a kill, held against
a SHA-256 of our own.

While a target is fetched there are `<target>.partial` (the bytes so far) and `<target>.partial.json` (what they are
of), afterwards `<target>.sha256` (what was verified, so that the next fetch reads and transfers nothing).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from fgmae_bench.errors import BenchError, os_error
from fgmae_bench.hub.checksums import PINS, name_hash, note_path, noted, read_pins, sha256_of, write_note, write_pin
from fgmae_bench.hub.content import content_fault
from fgmae_bench.hub.http import (
    AGAIN,
    NOT_A_FILE,
    HubFile,
    Remote,
    Source,
    Unreachable,
    WebFile,
    ask,
    chunks,
    opened,
    whole_number,
)
from fgmae_bench.system.files import read_small_json, still_at, sync_folder, wait_for_lock, write_json
from fgmae_bench.system.progress import Progress

__all__ = ["Fetched", "HubFile", "Unreachable", "WebFile", "adopt", "fetch"]

MB = 1_000_000
COPY_BYTES = 1 << 20
UNSTATED_BYTES = 4_000_000_000  # the most that is taken from a server that does not state a size

log = logging.getLogger("fgmae_bench")


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A verified file. `transferred` counts the bytes of this call, 0 when the file was here; `commit` is the hub's,
    where asked.
    """

    path: Path
    sha256: str
    transferred: int = 0
    commit: str | None = None


def fetch(
    source: Source,
    target: Path,
    *,
    sha256: str | None = None,
    md5: str | None = None,
    size: int | None = None,
    pins: Path | None = None,
    repin: bool = False,
    repin_with: str = "",
    quiet: bool = False,
) -> Fetched:
    """Bring `source` to `target` and verify it; an interrupted fetch goes on where it stopped, a finished one transfers
    nothing.

    The content must have the SHA-256, the MD5 and the `size` in bytes that are given, pinned in `pins` (default: a file
    in the target's folder) and stated by the hub, and begin as a torch-hub style name says. Where no SHA-256 is known
    the content must be what the file's ending says; it is pinned, and where nothing vouches that is said, unless
    `quiet`. `repin` fetches anew and replaces the pin, which messages say the command `repin_with` does. Raises
    BenchError on a refusal, wrong content, no network or a full disk.
    """
    pins = pins or target.parent / PINS
    claims, trusted = _claims(source, sha256, pins, repin), _Pinned(path=pins, repin=repin, repin_with=repin_with)
    if not repin and (here := _noted(source, target, claims, trusted)):
        _require_md5(target, target, md5)
        return here
    remote = ask(source)
    if size is not None and remote.size not in (None, size):
        raise BenchError(f"{source} has {remote.size} bytes, {size} are expected", NOT_A_FILE)
    remote = dataclasses.replace(remote, size=remote.size if size is None else size)
    expected = _agreed(source, {**claims, "stated by the hub": remote.sha256}, trusted)
    with _locked_partial(target) as stream:
        if target.exists() and not repin:
            digest = _verified_in_place(source, target, expected)
            _require_md5(target, target, md5)
            return Fetched(path=target, sha256=digest, commit=remote.commit)
        received = _receive(source, remote, target, stream)
        digest = _settle(source, target, stream, expected, trusted, md5=md5, quiet=quiet)
    return Fetched(path=target, sha256=digest, transferred=received, commit=remote.commit)


def adopt(
    source: Source,
    file: Path,
    target: Path,
    *,
    sha256: str | None = None,
    size: int | None = None,
    pins: Path | None = None,
    repin: bool = False,
    repin_with: str = "",
) -> Fetched:
    """Copy `file` to `target` as if it had been fetched, verified the same way.

    The hub is asked for its SHA-256 only where none is known here; where it cannot be reached the content is pinned,
    and said so.
    """
    pins = pins or target.parent / PINS
    claims, trusted = _claims(source, sha256, pins, repin), _Pinned(path=pins, repin=repin, repin_with=repin_with)
    if not repin and (here := _noted(source, target, claims, trusted)):
        return here
    if not file.is_file():
        raise BenchError(
            f"{file} does not exist", "give the folder that holds the published files under their own names"
        )
    found = file.stat().st_size
    if size not in (None, found):
        raise BenchError(f"{file} has {found} bytes, {size} are expected", "give the published file")
    if not any(claims.values()):
        try:
            claims["stated by the hub"] = ask(source).sha256
        except Unreachable as error:
            log.warning("%s: the hub was not asked for its SHA-256", error.what)
    expected = _agreed(source, claims, trusted)
    with _locked_partial(target) as stream:
        if target.exists() and not repin:
            return Fetched(path=target, sha256=_verified_in_place(source, target, expected))
        _require_space(target, found)
        stream.truncate(0)
        with open(file, "rb") as original:
            _pour(iter(lambda: original.read(COPY_BYTES), b""), stream, target, 0, found)
        digest = _settle(source, target, stream, expected, trusted)
    return Fetched(path=target, sha256=digest)


def _claims(source: Source, sha256: str | None, pins: Path, repin: bool) -> dict[str, str | None]:
    """Who says which SHA-256, before the hub is asked; a pin that is to be replaced has no say."""
    if repin and sha256 is not None:
        raise BenchError(f"{source} is not pinned: its SHA-256 {sha256} is stated with it", "fetch it without --repin")
    return {"expected": sha256, f"pinned in {pins}": None if repin else read_pins(pins).get(str(source))}


@dataclass(frozen=True, kw_only=True)
class _Pinned:
    """The file of pins, whether a pin is to be replaced, and the command that replaces one."""

    path: Path
    repin: bool
    repin_with: str

    def todo(self, source: Source, otherwise: str, does: str) -> str:
        """`otherwise`, and where `source` is pinned what the command that replaces the pin `does`."""
        pinned = self.repin_with and not self.repin and str(source) in read_pins(self.path)
        return f"{otherwise}; {self.repin_with} {does}" if pinned else otherwise


def _noted(source: Source, target: Path, claims: dict[str, str | None], pinned: _Pinned) -> Fetched | None:
    """The file if it was verified before and nothing known here contradicts it."""
    digest = noted(target, str(source))
    if digest is None:
        return None
    _agreed(source, {**claims, f"that of {target}": digest}, pinned)
    return Fetched(path=target, sha256=digest)


def _agreed(source: Source, claims: dict[str, str | None], pinned: _Pinned) -> str | None:
    """The SHA-256 on which all claims agree, None without any; raises BenchError when they do not."""
    known = {who: sha256 for who, sha256 in claims.items() if sha256}
    agreed, begins, said = next(iter(known.values()), None), name_hash(source.file), ""
    if len(set(known.values())) > 1:
        said = ", ".join(f"{sha256} is {who}" for who, sha256 in known.items())
    elif agreed and begins and not agreed.startswith(begins):
        said = f"{agreed} is {next(iter(known))}, its name says {begins}..."
    if said:
        todo = pinned.todo(source, "find out which is right", "fetches anew and replaces the pin")
        raise BenchError(f"{source}: the SHA-256 is in doubt: {said}", todo)
    return agreed


def _verified_in_place(source: Source, target: Path, expected: str | None) -> str:
    """SHA-256 of a target that is already there: finished by another process meanwhile, or put there by hand."""
    if digest := noted(target, str(source)):
        return digest
    digest = sha256_of(target)
    if digest != expected:
        wanted = (
            f"has SHA-256 {digest}, expected {expected}" if expected else "cannot be verified: its SHA-256 is not known"
        )
        raise BenchError(f"{target} is not from here and {wanted}", "remove it and run the same command again")
    write_note(target, str(source), digest)
    return digest


def _partial(target: Path) -> Path:
    return target.with_name(f"{target.name}.partial")


def _partial_facts(target: Path) -> Path:
    return target.with_name(f"{target.name}.partial.json")


@contextlib.contextmanager
def _locked_partial(target: Path) -> Iterator[FileIO]:
    """Yield the partial file of `target`, locked; an empty one is removed again."""
    with wait_for_lock(_partial(target)) as stream:
        try:
            yield stream
        finally:
            if still_at(_partial(target), stream) and os.fstat(stream.fileno()).st_size == 0:
                _discard(target)


def _discard(target: Path) -> None:
    """Remove what has come so far; only for the holder of the lock."""
    try:
        _partial(target).unlink(missing_ok=True)
        _partial_facts(target).unlink(missing_ok=True)
    except OSError as error:  # a folder may have been put there
        raise os_error(error, _partial(target)) from error


def _receive(source: Source, remote: Remote, target: Path, stream: FileIO) -> int:
    """Complete the partial file; returns the bytes transferred. What has come stays for the next call, whatever
    happens.
    """
    have = _resumable(remote, target, stream)
    if have and have == remote.size:
        return 0
    _require_space(target, (remote.size or 0) - have)
    with opened(source, remote.url, have) as (response, start):
        if start != have:
            log.info("%s: the server cannot continue a download; it starts anew", target.name)
        length = whole_number(response.headers.get("content-length"))
        size = start + length if remote.size is None and length is not None else remote.size
        stream.seek(start)
        stream.truncate()
        return _pour(chunks(response), stream, target, start, size)


def _resumable(remote: Remote, target: Path, stream: FileIO) -> int:
    """Bytes of the partial file that are of this very content; it is emptied where they are not."""
    facts = {"url": remote.url, "etag": remote.etag, "size": remote.size}
    have = os.fstat(stream.fileno()).st_size
    before = read_small_json(_partial_facts(target))
    same = isinstance(before, dict) and all(facts[key] and facts[key] == before.get(key) for key in ("etag", "size"))
    if same and have <= (remote.size or 0):
        return have
    stream.truncate(0)
    write_json(_partial_facts(target), facts)
    return 0


def _require_space(target: Path, needed: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        what = f"{target.parent} has {free / MB:.0f} MB free, {target.name} needs {needed / MB:.0f} MB more"
        raise BenchError(what, "free space there or choose another folder, then run the same command again")


def _pour(pieces: Iterable[bytes], stream: FileIO, target: Path, start: int, size: int | None) -> int:
    """Write `pieces` behind byte `start`; returns how many bytes.

    Raises BenchError when more or fewer than `size` come in all, or, where it is not known, more than UNSTATED_BYTES.
    """
    done, total = start, max(size or 0, start)
    most, limit = (UNSTATED_BYTES, "that are taken without a stated size") if size is None else (size, "of the file")
    label = f"{target.name} (from {start // MB} MB on)" if start else target.name
    with Progress(label, -(-(total - start) // MB), "MB") as progress:
        try:
            for piece in pieces:
                if done + len(piece) > most:
                    _discard(target)
                    raise BenchError(f"{target.name}: more than the {most} bytes {limit} came", NOT_A_FILE)
                _write_all(stream, piece, target)
                progress.step((done + len(piece)) // MB - done // MB)
                done += len(piece)
        except Unreachable as error:
            raise Unreachable(
                f"{target.name}: {error.what} after {done} of {size or 'unknown'} bytes", error.todo
            ) from error
    if size is not None and done < size:
        raise BenchError(f"{target.name}: the connection ended after {done} of {size} bytes", AGAIN)
    return done - start


def _write_all(stream: FileIO, piece: bytes, target: Path) -> None:
    view = memoryview(piece)
    try:
        while view:
            view = view[stream.write(view) :]
    except OSError as error:
        raise os_error(error, _partial(target)) from error


def _require_md5(path: Path, target: Path, md5: str | None) -> None:
    """Raise BenchError, and remove what has come, unless the content at `path` has this MD5; None asks for nothing."""
    if not md5:
        return
    try:
        with open(path, "rb") as stream:
            found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise os_error(error, path) from error
    if found != md5:
        _discard(target)
        for wrong in (target, note_path(target)):
            wrong.unlink(missing_ok=True)
        todo = "run the command again; where it stays so, the publishers have another file now"
        raise BenchError(f"{target.name} has the MD5 {found}, its card states {md5}", todo)


def _settle(
    source: Source,
    target: Path,
    stream: FileIO,
    expected: str | None,
    pinned: _Pinned,
    *,
    md5: str | None = None,
    quiet: bool = False,
) -> str:
    """Verify the complete partial file and give it its final name; wrong bytes are removed."""
    digest, begins = sha256_of(_partial(target)), name_hash(source.file)
    fault = content_fault(_partial(target), source.file)
    if not digest.startswith(expected or begins or ""):
        _discard(target)
        todo = pinned.todo(
            source,
            "run the same command again; where it stays so, the source holds other content",
            "trusts that in place of what is pinned",
        )
        wanted = expected or f"{begins}... as its name says"
        reason = f" ({fault})" if fault else ""
        raise BenchError(f"{target.name}: wrong bytes came{reason}, SHA-256 {digest} instead of {wanted}", todo)
    if expected is None and fault:  # nobody but the content itself can vouch for it
        _discard(target)
        raise BenchError(f"{target.name}: what came is not that file: {fault}; nothing was kept or pinned", NOT_A_FILE)
    _require_md5(_partial(target), target, md5)
    if expected is None or pinned.repin:
        _pin(source, digest, vouched=expected is not None, pins=pinned.path, quiet=quiet or md5 is not None)
    try:
        os.fsync(stream.fileno())
        os.replace(_partial(target), target)
        _partial_facts(target).unlink(missing_ok=True)
    except OSError as error:
        raise os_error(error, target) from error
    sync_folder(target.parent)
    write_note(target, str(source), digest)
    return digest


def _pin(source: Source, digest: str, vouched: bool, pins: Path, quiet: bool) -> None:
    """Pin a digest and say so, unless it is new and `quiet`; where the hub vouches for it only an earlier pin is
    replaced.
    """
    before = read_pins(pins).get(str(source))
    if before is not None and before != digest:
        log.warning("%s: its pin in %s was SHA-256 %s and is now %s", source, pins, before, digest)
    elif before == digest:
        log.info("%s: its pin in %s stays, the content is the same: SHA-256 %s", source, pins, digest)
    elif not vouched and name_hash(source.file):
        log.info("%s: 8 digits in its name vouch for it; its SHA-256 %s is now pinned in %s", source, digest, pins)
    elif not vouched and not quiet:
        log.warning("nothing vouches for %s: its SHA-256 %s is now pinned in %s", source, digest, pins)
    if not vouched or before is not None:
        write_pin(pins, str(source), digest)
