"""A record without the folders, host and user of the machine that made it; its run id and scores stay."""

from __future__ import annotations

import copy
import getpass
import json
import os
import platform
import re
import shlex
from collections.abc import Iterable
from typing import Any

from fgmae_bench.config.run_ids import recorded_id
from fgmae_bench.errors import BenchError
from fgmae_bench.records import Record, clean_id, seal
from fgmae_bench.system.environment import shell_word

PLACE, NAME = "PATH", "NAME"  # what stands for a folder, and for a user or host
# In a text: what begins like an absolute path or a home folder, but no fraction, no unit, no web address.
ABSOLUTE = re.compile(
    r"""(?<![\w./~-])(?:file://\S+|(?:~[\w.-]*)?[/\\][\w.@+~-][^\s"'`,;()<>]*|[A-Za-z]:[\\/][^\s"'`,;()<>]*)"""
)
EXECUTION = ("data_path", "output_dir", "log_dir", "results_dir", "cache_dir", "resume")
GENERIC = frozenset(
    ("root", "user", "users", "home", "admin", "ubuntu", "runner", "localhost", "nobody", "work", "data")
)
WEIGHTS_FILE = re.compile(r".*[/\\].*|.*\.(pth|pt|bin|ckpt|safetensors|tar|npz|parquet|npy)")


def own_names() -> list[str]:
    """Names that must not travel: this host's, with and without its domain, the user's and the home folder's."""
    host = platform.node()
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a user without an entry, as in containers
        user = ""
    found = {host, host.split(".")[0], user, os.path.basename(os.path.expanduser("~"))}
    return sorted(name for name in found if len(name) > 2 and name.lower() not in GENERIC)


def stripped(record: Record, names: Iterable[str]) -> Record:
    """The record sealed again, without paths and `names`.

    Raises BenchError where one stays in what the run id is made of, which cannot be changed.
    """
    try:
        recorded_id(record)
        data, weights = record["config"]["data"], record["config"]["model"]["weights"]
        _is_path(data["dataset"] + (data["split"] or "") + (weights or ""))
    except (KeyError, TypeError, ValueError) as error:
        raise BenchError(f"{record['run_id']}: its configuration is not whole ({error})", "run it again") from error
    body = copy.deepcopy({key: value for key, value in record.items() if key != "sha256"})
    config, dataset = body["config"], body["dataset"]
    config["execution"] |= {name: None for name in EXECUTION if name in config["execution"]}
    if _is_path(config["data"]["dataset"]):
        config["data"]["dataset"] = dataset["name"]
    if _is_path(config["data"]["split"] or ""):
        config["data"]["split"] = dataset["split"] = "lists"
    if WEIGHTS_FILE.fullmatch(config["model"]["weights"] or ""):
        config["model"]["weights"] = _last(config["model"]["weights"])
    source = body["model"]["weights"]["source"]
    body["model"]["weights"]["source"] = _last(source) if WEIGHTS_FILE.fullmatch(source) else source
    body["environment"]["command"] = _command(body["environment"]["command"])
    words = re.compile(
        "|".join(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])" for name in names) or r"(?!)", re.I
    )
    for key in ("environment", "notes", "model", "selection"):
        if key in body:
            body[key] = _texts(body[key], words)
    config["execution"] = _texts(config["execution"], words)
    sealed = seal(body)
    if clean_id(sealed["run_id"]) not in recorded_id(sealed):
        raise BenchError(f"{record['run_id']}: a path is part of its run id", "run it with a name in place of the path")
    if left := leftover(json.dumps(sealed, ensure_ascii=False), words):
        raise BenchError(
            f"{record['run_id']}: '{left}' stays in it", "run it with names that say nothing of the machine"
        )
    return sealed


def leftover(text: str, words: re.Pattern[str] | None = None) -> str | None:
    """The first path of a machine, or one of the names, in the JSON of a record; None where there is none."""
    for value in re.findall(r'"((?:[^"\\]|\\.)*)"', text):
        found = ABSOLUTE.search(value.replace("\\\\", "\\")) or (words.search(value) if words else None)
        if found:
            return found[0][:100]
    return None


def _is_path(text: str) -> bool:
    return "/" in text or "\\" in text or text.endswith(".toml") or text.startswith(("~", "."))


def _last(text: str) -> str:
    """The last part of a path."""
    return re.split(r"[/\\]", text.rstrip("/\\"))[-1] or PLACE


def _command(line: str) -> str:
    """A command line whose words with a path in them are PATH; a value behind `=` alone."""
    try:
        words = shlex.split(line)
    except ValueError:  # cut short, or never a command line
        words = line.split()
    found = []
    for word in words:
        flag, equals, value = word.partition("=")
        if equals and flag.startswith("-"):
            found.append(shell_word(f"{flag}={PLACE}" if _is_path(value) else word))
        else:
            found.append(PLACE if _is_path(word) else shell_word(word))
    return " ".join(found)


def _texts(value: Any, words: re.Pattern[str]) -> Any:
    """The value with every text in it stripped."""
    if isinstance(value, dict):
        return {key: _texts(part, words) for key, part in value.items()}
    if isinstance(value, list):
        return [_texts(part, words) for part in value]
    return words.sub(NAME, ABSOLUTE.sub(PLACE, value)) if isinstance(value, str) else value
