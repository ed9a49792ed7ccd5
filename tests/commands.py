"""Whole commands as a user types them: in this process, or in one of its own where the process is the question."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import preloaded
import pytest
import rasterio

from fgmae_bench.config.cards import load_card
from fgmae_bench.errors import EXIT_INTERRUPTED, run_entry
from fgmae_bench.worlds.eurosat import write_eurosat

REPOSITORY = Path(__file__).resolve().parents[1]
REALDATA = REPOSITORY.parent / "shared" / "realdata"
EUROSAT_CARD = REPOSITORY / "datasets" / "eurosat" / "card.toml"
MAIN = {"prepare": "fgmae_bench.prepare.__main__", "report": "fgmae_bench.report.__main__"}
# What a run writes to, one folder each, relative to the working directory.
FOLDERS = ("--cache_dir", "cache", "--results_dir", "results", "--output_dir", "out", "--log_dir", "log")
PLACES = {"results_dir": "results", "cache_dir": "cache", "output_dir": "out", "log_dir": "log"}  # the same, in Python
STATISTICS = (
    "--model",
    "backscatter_stats",
    "--weights",
    "random",
    "--features",
    "cached",
    "--epochs",
    "2",
    "--batch_size",
    "16",
)
TINY_VIT = ("--model", "vit_tiny_patch16_224", "--input_size", "32", *STATISTICS[2:])


@dataclass(frozen=True)
class Result:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


def call(module: str, *flags: object, cwd: Path) -> Result:
    """`python -m fgmae_bench.<module> <flags>` inside this process: same entry, same logging, exit code caught."""
    entry = importlib.import_module(MAIN.get(module, f"fgmae_bench.{module}")).main
    root, argv, out, err, code = logging.getLogger(), sys.argv, io.StringIO(), io.StringIO(), None
    kept, root.handlers = root.handlers, []
    try:
        sys.argv = [f"fgmae_bench.{module}", *map(str, flags)]
        with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                run_entry(entry)
            except SystemExit as end:
                code = end.code
    finally:
        sys.argv, root.handlers = argv, kept
    assert isinstance(code, int)
    return Result(code, out.getvalue(), err.getvalue())


def spawn(module: str, *flags: object, cwd: Path) -> Result:
    """The same in a process of its own, which begins with torch loaded."""
    environment = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")}
    done = preloaded.run(["-m", f"fgmae_bench.{module}", *flags], cwd=cwd, env=environment)
    return Result(done.returncode, done.stdout, done.stderr)


def stop_once_there_is(sign: str, folder: Path, work: Callable[[], Result]) -> None:
    """Do `work`; saving a checkpoint is stopped, as by Ctrl-C, once a file like `sign` is in `folder`."""
    from fgmae_bench.runs.folder import RunFolder

    real = RunFolder.save

    def save(run: RunFolder, *given: Any, **how: Any) -> None:
        if list(folder.glob(sign)):
            raise KeyboardInterrupt
        real(run, *given, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "save", save)
        assert work().code == EXIT_INTERRUPTED


def linear(
    data: Path, *flags: object, cwd: Path, backbone: tuple[str, ...] = STATISTICS, dataset: object = "eurosat"
) -> Result:
    """A small linear probe that writes into FOLDERS of `cwd`; later flags stand above these."""
    return call("linear", "--dataset", dataset, "--data_path", data, *backbone, *FOLDERS, *flags, cwd=cwd)


def listing(folder: Path) -> dict[str, int | None]:
    """Every file below `folder` with a checksum of its content, every folder with None."""
    return {
        str(path.relative_to(folder)): zlib.crc32(path.read_bytes()) if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def said(result: Result) -> str:
    """The one line of a refusal: on standard error, nothing else there or on standard output, exit code 2."""
    assert result.code == 2, result
    assert result.out == ""
    assert result.err.count("\n") == 1, result.err
    assert re.match(r"error: .+; .+\n\Z", result.err), result.err
    return result.err.rstrip("\n")


def refused(
    *flags: object, cwd: Path, run: Callable[..., Result] = linear, cache_filled: bool = False, **more: Any
) -> str:
    """The line of a command that is refused and leaves `cwd` as it was, recursively.

    `cache_filled`: it fails later than the features, so that the cache may keep them.
    """
    before = listing(cwd)
    line = said(run(*flags, cwd=cwd, **more))
    kept = "cache" if cache_filled else "/"
    assert {path: content for path, content in listing(cwd).items() if not path.startswith(kept)} == before
    return line


def records(folder: Path) -> list[dict[str, Any]]:
    """The records below a results folder, in path order."""
    return [json.loads(path.read_text()) for path in sorted((folder / "records").rglob("*.json"))]


def only_record(folder: Path) -> dict[str, Any]:
    """The one record below a results folder."""
    (record,) = records(folder)
    return record


def codes(record: dict[str, Any]) -> list[str]:
    """Codes of a record's notes."""
    return [note["code"] for note in record["notes"]]


def metrics(record: dict[str, Any]) -> dict[str, Any]:
    """What two equal runs have in common beside their id."""
    history = [{key: entry[key] for key in ("epoch", "lr", "train_loss", "val")} for entry in record["history"]]
    return {"metrics": record["metrics"], "history": history}


_STORE = tempfile.TemporaryDirectory(prefix="fgmae_bench_worlds_")


@cache
def shared_world(per_class: int = 12) -> Path:
    """A small synthetic EuroSAT, written once a session; not to be changed."""
    root = Path(_STORE.name) / f"world-{per_class}"
    write_eurosat(root, per_class=per_class)
    return root


def small_world(folder: Path, per_class: int = 5) -> Path:
    """A copy of one, to be spoilt: 5 images a class, the least that the reference split divides, all audited."""
    return Path(shutil.copytree(shared_world(per_class), folder / "world"))


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray], tagged: bool = True, **profile: Any) -> None:
    """Replace the pixels (2, H, W) of a GeoTIFF by `change` of them; georeference and, where `tagged`, tags are kept."""
    with rasterio.open(path) as source:
        pixels, facts, tags = change(source.read()), source.profile, source.tags()
    facts |= {
        "count": pixels.shape[0],
        "height": pixels.shape[1],
        "width": pixels.shape[2],
        "dtype": pixels.dtype,
    } | profile
    path.unlink()
    with rasterio.open(path, "w", **facts) as target:
        target.write(pixels)
        target.update_tags(**(tags if tagged else {}))


def rewrite_all(root: Path, change: Callable[[np.ndarray], np.ndarray], tagged: bool = True, **profile: Any) -> Path:
    """`rewrite` every image of a world."""
    for path in root.rglob("*.tif"):
        rewrite(path, change, tagged, **profile)
    return root


def truncated(path: Path) -> None:
    """Cut a file in half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def unsampled(root: Path) -> Path:
    """A training image that the check against the card does not look at, for the reference split."""
    from fgmae_bench.data.audit import sample_rows
    from fgmae_bench.data.layouts import build_index

    index = build_index(load_card("eurosat"), root)
    return index.path(sorted(set(range(len(index.files))) - set(sample_rows(index)))[-1])


def edited_card(path: Path, *replacements: tuple[str, str], source: Path = EUROSAT_CARD) -> Path:
    """A copy of a card with pieces of text replaced; each must be there. It gets a name of its own: `own_<name>`."""
    text = source.read_text()
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new, 1)
    if replacements:
        text = text.replace('name = "', 'name = "own_', 1)
    path.write_text(text)
    return path


def genuine(*parts: str) -> Path:
    """A folder of the genuine samples; skips the test where they are absent."""
    path = REALDATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"genuine Sentinel-1 samples are not here: {path}")
    return path
