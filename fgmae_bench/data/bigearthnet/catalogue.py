"""Where the product of each patch can be got: the OData catalogue of the Copernicus Data Space, asked once a scene.

API: documentation.dataspace.copernicus.eu/APIs/OData.html, "Query by name" and "Product download". Asking needs no
account, a download does. The Open Access Hub that older scripts asked closed in 2023.
"""

from __future__ import annotations

import csv
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fgmae_bench.errors import BenchError
from fgmae_bench.hub.http import retry_after_s
from fgmae_bench.system.files import replacing, write_json
from fgmae_bench.system.progress import Progress

if TYPE_CHECKING:
    import httpx2
    import pyarrow as pa

COLUMNS = ("patch", "product", "link")
TIMEOUT_S = 60.0
PAUSES_S = (2.0, 5.0, 15.0, 45.0)  # before each new try after 429 or 5xx, where the catalogue does not say how long
MAX_WAIT_S = 300.0  # a catalogue that asks for more is not waited for
AGAIN = "run the same command again: it goes on where it stopped"

log = logging.getLogger("fgmae_bench")


def write_links(table: pa.Table, out: Path, catalogue: str, per_second: float) -> tuple[int, list[str]]:
    """Write `out` by rename: patch, product (.SAFE) and download link of every patch with a known scene.

    Returns (lines, products that the catalogue has not: their links are empty). `catalogue` is a `normal_base`. Answers
    are kept in `<out>.cache.json`. Raises BenchError where the catalogue cannot be reached, refuses, or answers
    nonsense.
    """
    pairs = [
        (patch, scene)
        for patch, scene in zip(table["s1_name"].to_pylist(), table["scene"].to_pylist(), strict=True)
        if scene
    ]
    links = find_links(
        sorted({scene for _, scene in pairs}), catalogue, out.with_name(f"{out.name}.cache.json"), per_second
    )
    with replacing(out) as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows((patch, f"{scene}.SAFE", links[scene] or "") for patch, scene in pairs)
    return len(pairs), [f"{scene}.SAFE" for scene, link in links.items() if link is None]


def find_links(scenes: list[str], catalogue: str, cache: Path, per_second: float) -> dict[str, str | None]:
    """Link of each scene, None where the catalogue has none. Only scenes without an answer in `cache` are asked for."""
    import httpx2

    from fgmae_bench import __version__

    known = _read_cache(cache, catalogue)
    found: dict[str, str | None] = {scene: known.get(scene) for scene in scenes}
    todo = [scene for scene in scenes if scene not in known]
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs every question
    wait = _pacer(per_second)
    session = httpx2.Client(
        timeout=TIMEOUT_S, headers={"user-agent": f"fgmae_bench/{__version__}"}, follow_redirects=True
    )
    with session as client, Progress("asking", len(todo), "scenes") as progress:
        for scene in todo:
            found[scene] = link_of(scene, ask(client, catalogue, scene, wait), catalogue)
            if found[scene] is not None:
                known[scene] = str(found[scene])
                write_json(cache, {"catalogue": catalogue, "links": known})
            progress.step()
    return found


def ask(client: httpx2.Client, catalogue: str, scene: str, wait: Callable[[], None]) -> Any:
    """The catalogue's answer about one scene, as JSON; 429 and 5xx are tried again. `wait` is called before each."""
    import httpx2

    host = urlsplit(catalogue).netloc
    for pause_s in (*PAUSES_S, None):
        wait()
        try:
            response = client.get(f"{catalogue}/Products", params={"$filter": f"Name eq '{scene}.SAFE'"})
        except httpx2.InvalidURL as error:
            raise BenchError(f"{catalogue} is not an address ({error})", "correct --catalogue") from error
        except httpx2.RequestError as error:
            reason = str(error) or type(error).__name__
            raise BenchError(f"{host} cannot be reached ({reason})", f"check the network, then {AGAIN}") from error
        status = response.status_code
        wait_s = retry_after_s(response, pause_s)
        if (status != 429 and status < 500) or pause_s is None or wait_s > MAX_WAIT_S:
            break
        log.info("%s answers %d; again in %.0f s", host, status, wait_s)
        time.sleep(wait_s)
    if status == 429 or status >= 500:
        raise BenchError(f"{host} answers {status}", f"later {AGAIN}")
    if status >= 400:
        raise BenchError(f"{host} answers {status} for {scene}", "check --catalogue")
    try:
        return response.json()
    except ValueError as error:
        raise BenchError(f"{host} answers no JSON for {scene}", "check --catalogue and the network") from error


def link_of(scene: str, answer: Any, catalogue: str) -> str | None:
    """Download link of the product named exactly as the scene, the newest where there are several; None without one.

    The catalogue answers under `catalogue.`, products are sent from `download.` of the same domain.
    """
    try:
        named = [item for item in answer["value"] if item["Name"] == f"{scene}.SAFE"]
        if not named:
            return None
        newest = max(named, key=lambda item: (bool(item.get("Online")), str(item.get("PublicationDate"))))
        return f"{catalogue.replace('://catalogue.', '://download.')}/Products({newest['Id']})/$value"
    except (KeyError, TypeError, AttributeError) as error:
        raise BenchError(
            f"{urlsplit(catalogue).netloc} answers without the expected fields for {scene}", "check --catalogue"
        ) from error


def normal_base(base: str) -> str:
    """The address up to `/odata/v1`, which is added to a bare host."""
    parts = urlsplit(base)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise BenchError(
            f"--catalogue {base} is not an address",
            "give one such as https://catalogue.dataspace.copernicus.eu/odata/v1",
        )
    path = parts.path.rstrip("/").removesuffix("/Products")
    return f"{parts.scheme}://{parts.netloc}{path or '/odata/v1'}"


def _pacer(per_second: float) -> Callable[[], None]:
    """A function that returns at most `per_second` times a second."""
    ready = time.monotonic()

    def wait() -> None:
        nonlocal ready
        time.sleep(max(0.0, ready - time.monotonic()))
        ready = time.monotonic() + 1 / per_second

    return wait


def _read_cache(path: Path, catalogue: str) -> dict[str, str]:
    """Links kept of an earlier run with the same catalogue."""
    if not path.is_file():
        return {}
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["catalogue"] != catalogue:
            return {}
        return {str(scene): str(link) for scene, link in kept["links"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BenchError(f"{path} is broken", "remove it and run the same command again") from error
