"""The server's side of a download: what it says of a file, the bytes it sends, and every refusal as one line.

Addresses, token, proxies and offline mode are huggingface_hub's. Its `get_hf_file_metadata` is not used: version 2.4
asks `/api/agent-harnesses` before the first request of a process, waits as long as a Retry-After says, and breaks on an
error body that is a JSON list; its downloads are not resumed after a kill and not verified.
"""

from __future__ import annotations

import contextlib
import email.utils
import logging
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import unquote, urljoin, urlsplit

from fgmae_bench.errors import BenchError
from fgmae_bench.hub.checksums import is_sha256
from fgmae_bench.system.endpoint import hub_endpoint, without_password

if TYPE_CHECKING:
    from httpx2 import Response

TIMEOUT_S = 20.0  # of a connection and of each wait for bytes
ANSWER_S = 90.0  # of a whole answer's head, redirects included, however slowly it trickles in
WINDOW_S, LEAST_BYTES_PER_S = 60.0, 1_000  # a body that brings less in a window is given up
MOST_S = 48 * 3600.0  # of one body; what has come stays, and the next call goes on from there
PAUSES_S = (1.0, 3.0, 9.0)  # before each new try after 429 or 5xx, where the hub does not say how long
MAX_WAIT_S = 60.0  # a hub that asks for more is not waited for
MAX_REDIRECTS = 10
AGAIN = "run the same command again: it goes on where it stopped"
NOT_A_FILE = "check the address or HF_ENDPOINT, and the network: a proxy or a login page may have answered in its place"
SIZE_DIGITS = 15  # the most that a stated size may have: 1 PB
T = TypeVar("T")

log = logging.getLogger("fgmae_bench")


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """One file of a repository on the hub. `revision` is a commit hash where the content must not change, else a
    branch.
    """

    repo: str
    file: str
    revision: str = "main"
    repo_type: Literal["model", "dataset"] = "model"

    def __str__(self) -> str:
        prefix = "datasets/" if self.repo_type == "dataset" else ""
        return f"{prefix}{self.repo}@{self.revision}/{self.file}"

    @property
    def called(self) -> str:
        """What messages call it."""
        return f"{self.file} of {self.repo} at revision {self.revision}"

    @property
    def server(self) -> str:
        """What messages call its server."""
        return "the hub"


@dataclass(frozen=True, kw_only=True)
class WebFile:
    """One file at an address of its own, which nobody vouches for and to which no token is sent."""

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def file(self) -> str:
        """The last part of the address."""
        return PurePosixPath(unquote(urlsplit(self.url).path)).name

    @property
    def called(self) -> str:
        """What messages call it."""
        return self.url

    @property
    def server(self) -> str:
        """What messages call its server."""
        return urlsplit(self.url).netloc


Source = HubFile | WebFile


@dataclass(frozen=True, kw_only=True)
class Remote:
    """What a server says of a file. `etag` names its content, `size` is in bytes, `commit` is what a hub's revision
    stands for; `of_hub` where the server's word on the content counts.
    """

    url: str
    etag: str | None
    size: int | None
    commit: str | None
    of_hub: bool = True

    @property
    def sha256(self) -> str | None:
        """The SHA-256 of the content: the etag of a large (LFS) file; other etags are git's and say nothing of it."""
        return self.etag if self.of_hub and is_sha256(self.etag) else None


class Unreachable(BenchError):
    """Nobody answered, or the connection ended."""


def ask(source: Source) -> Remote:
    """What its server says of `source`; raises BenchError when it has no such file, refuses or cannot be reached.

    A hub's redirects are followed up to the answer that carries `X-Linked-Etag`: the next one would lead to a storage
    host. Elsewhere that header means nothing, and all are followed.
    """
    of_hub = isinstance(source, HubFile)
    url = start = _address(source)
    for _ in range(MAX_REDIRECTS):
        response = _send(source, "HEAD", url, start)
        response.close()
        headers, moved = response.headers, response.has_redirect_location
        if not moved or (of_hub and "x-linked-etag" in headers):
            _require_file(source, response, {response.status_code} if moved else {200})
            linked, length = headers.get("x-linked-size"), headers.get("content-length")
            size = whole_number((linked if of_hub else None) or (None if moved else length))
            commit = _commit(headers) if of_hub else None
            return Remote(url=start, etag=_etag(headers, of_hub), size=size, commit=commit, of_hub=of_hub)
        try:
            url = urljoin(url, headers["location"])
        except ValueError as error:
            what = f"{source.server} redirects {source} to a malformed address ({error})"
            raise BenchError(what, NOT_A_FILE) from error
    raise BenchError(f"{source.server} redirects {source} in circles", "check the repository's name or the address")


def _address(source: Source) -> str:
    if isinstance(source, WebFile):
        return source.url
    endpoint = hub_endpoint()
    from huggingface_hub import hf_hub_url  # it reads HF_ENDPOINT as it is imported, and breaks on a bad one

    return hf_hub_url(source.repo, source.file, repo_type=source.repo_type, revision=source.revision, endpoint=endpoint)


@contextlib.contextmanager
def opened(source: Source, url: str, offset: int) -> Iterator[tuple[Response, int]]:
    """Yield (response, first byte that it sends): `offset` where the server can, 0 where it sends the whole file."""
    response = _send(source, "GET", url, url, offset)
    try:
        if response.status_code == 416 or (response.status_code == 206 and _first_byte(response) != offset):
            response.close()
            response = _send(source, "GET", url, url)
        _require_file(source, response, {200, 206} if offset else {200})
        yield response, offset if response.status_code == 206 else 0
    finally:
        response.close()


def chunks(response: Response) -> Iterator[bytes]:
    """The body as it arrives; raises Unreachable when the connection ends before it does, or when too little comes."""
    import httpx2

    host, pieces = response.url.host, response.iter_raw()
    started = window = time.monotonic()
    came = 0
    while True:
        try:
            piece = _within(WINDOW_S, lambda: next(pieces, None), host)
        except httpx2.RequestError as error:
            raise Unreachable(f"the connection to {host} ended ({_reason(error)})", AGAIN) from error
        if piece is None:
            return
        yield piece
        came += len(piece)
        now = time.monotonic()
        if now - started > MOST_S:
            raise Unreachable(f"{host} was not done after {MOST_S / 3600:.0f} hours", AGAIN)
        if now - window >= WINDOW_S:
            if came < LEAST_BYTES_PER_S * WINDOW_S:
                raise Unreachable(f"{host} sent {came} bytes in {WINDOW_S:.0f} s, which is too slow", AGAIN)
            window, came = now, 0


def _within(seconds: float, work: Callable[[], T], host: str) -> T:
    """What `work` returns; raises Unreachable when it takes longer, and what it raises of network and addresses.

    It works in a thread, which nobody waits for once the time is up: the client's own limits are of each wait
    for bytes, and a server that sends one now and then is never done.
    """
    import httpx2

    done: queue.Queue[T | Exception] = queue.Queue()

    def run() -> None:
        try:
            done.put(work())
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, OSError, ValueError) as error:
            done.put(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        result = done.get(timeout=seconds)
    except queue.Empty:
        raise Unreachable(f"{host} did not answer within {seconds:.0f} s", AGAIN) from None
    if isinstance(result, Exception):
        raise result
    return result


def _send(source: Source, method: str, url: str, start: str, offset: int = 0) -> Response:
    """An open response below 400, or 416. Retries 429 and 5xx; the token goes to a hub alone, and to the host of
    `start`.
    """
    headers = {"accept-encoding": "identity", **({"range": f"bytes={offset}-"} if offset else {})}
    for pause_s in (*PAUSES_S, None):
        with_token = isinstance(source, HubFile) and urlsplit(url)[:2] == urlsplit(start)[:2]
        response = _attempt(method, url, headers, with_token=with_token)
        status = response.status_code
        if status < 400 or status == 416:
            return response
        response.close()
        wait_s = retry_after_s(response, pause_s)
        if (status != 429 and status < 500) or pause_s is None or wait_s > MAX_WAIT_S:
            break
        log.info("%s answers %d for %s; again in %.0f s", source.server, status, source.file, wait_s)
        time.sleep(wait_s)
    raise _refusal(source, response)


def _attempt(method: str, url: str, headers: dict[str, str], with_token: bool) -> Response:
    """One request, its body unread; a GET follows redirects and leaves the token behind when the host changes."""
    import httpx2
    from huggingface_hub import get_session, get_token
    from huggingface_hub.errors import OfflineModeIsEnabled

    from fgmae_bench import __version__

    token = get_token() if with_token else None
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs every address, a storage host's signature included
    sent = {
        "user-agent": f"fgmae_bench/{__version__}",
        **headers,
        **({"authorization": f"Bearer {token}"} if token else {}),
    }
    try:
        client = get_session()
        request = client.build_request(method, url, headers=sent, timeout=TIMEOUT_S)
        get = method == "GET"
        return _within(
            ANSWER_S,
            lambda: client.send(request, stream=True, follow_redirects=get),
            without_password(urlsplit(url).netloc),
        )
    except ImportError as error:  # the client's own, as it is made
        what = "HTTP_PROXY, HTTPS_PROXY or ALL_PROXY names a SOCKS proxy, and the package socksio is not here"
        raise Unreachable(what, "install it: pip install socksio") from error
    except OfflineModeIsEnabled as error:
        raise Unreachable(
            "HF_HUB_OFFLINE is set, nothing may be downloaded", "unset it, or take the files from a folder"
        ) from error
    except (httpx2.InvalidURL, ValueError) as error:
        todo = "correct it, HF_ENDPOINT, or the proxy that HTTPS_PROXY or ALL_PROXY names"
        raise BenchError(f"{without_password(url)} is or leads to a malformed address ({error})", todo) from error
    except httpx2.RequestError as error:
        todo = "check the network and HF_ENDPOINT, then run the same command again"
        raise Unreachable(
            f"{without_password(urlsplit(url).netloc)} cannot be reached ({_reason(error)})", todo
        ) from error


def _refusal(source: Source, response: Response) -> BenchError:
    status, server, where = response.status_code, source.server, source.called
    check = "check repository, file and revision"
    if isinstance(source, WebFile):
        check = "see where its publishers keep the file now, and correct the address on the card"
    if status == 404:
        return BenchError(f"{server} has no {where} (404)", check)
    if status in (401, 403):
        todo = "it is private, gated or does not exist: check its name, or log in with: hf auth login"
        return BenchError(f"{server} refuses {where} ({status})", todo if isinstance(source, HubFile) else check)
    if status == 429 or status >= 500:
        wait_s = retry_after_s(response, None)
        return BenchError(
            f"{server} answers {status} for {where}",
            f"run the same command again {f'in {wait_s:.0f} s' if wait_s else 'later'}",
        )
    return BenchError(f"{server} answers {status} for {where}", check)


def retry_after_s(response: Response, pause_s: float | None) -> float:
    """Seconds of the Retry-After header (a number or a date), else `pause_s`."""
    text = response.headers.get("retry-after", "").strip()
    seconds = whole_number(text)
    if seconds is not None:
        return float(seconds)
    with contextlib.suppress(ValueError, TypeError, IndexError, OverflowError, OSError):
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    return pause_s or 0.0


def _require_file(source: Source, response: Response, statuses: set[int]) -> None:
    """Raise BenchError unless the answer has one of these statuses and is not a web page."""
    kind = response.headers.get("content-type", "").split(";")[0].strip().lower()
    where = f"{without_password(urlsplit(str(response.url)).netloc)} answers for {source.file}"
    if response.status_code not in statuses:
        raise BenchError(f"{where} with status {response.status_code} and no file", NOT_A_FILE)
    if kind in ("text/html", "application/xhtml+xml") and not response.has_redirect_location:
        raise BenchError(f"{where} with a web page", NOT_A_FILE)


def whole_number(text: str | None) -> int | None:
    """A whole number of a header, None for anything else and for more than SIZE_DIGITS digits."""
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) <= SIZE_DIGITS else None


def _commit(headers: Any) -> str | None:
    """The commit that the hub names, if it is one."""
    text = headers.get("x-repo-commit") or ""
    return text if re.fullmatch("[0-9a-f]{40}", text) else None


def _etag(headers: Any, of_hub: bool) -> str | None:
    text = (headers.get("x-linked-etag") if of_hub else None) or headers.get("etag")
    return text.removeprefix("W/").strip('"')[:256] if text else None


def _first_byte(response: Response) -> int | None:
    match = re.match(r"bytes ([0-9]+)-", response.headers.get("content-range", ""))
    return whole_number(match[1]) if match else None


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
