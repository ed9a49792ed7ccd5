"""What a job wants to know of a checkpoint before it starts: it is there, it is what its name says, it opens, fits and
has learnt.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from fgmae_bench.checkpoints.convert import backbone_of
from fgmae_bench.checkpoints.layouts import layout_of
from fgmae_bench.checkpoints.load import account, untrained
from fgmae_bench.checkpoints.names import of_entry
from fgmae_bench.checkpoints.reader import State, read_state
from fgmae_bench.checkpoints.registry import Published, by_file, find_weights, place_of, published, registered
from fgmae_bench.errors import BenchError, closest
from fgmae_bench.hub.checksums import PINS, is_sha256, name_hash, read_pins
from fgmae_bench.models.weights import empty_network, usual_size

FORM = "give a registered name or a path, then model=NAME and sha256=HEX where they are known"


@dataclass(frozen=True, kw_only=True)
class Required:
    """One checkpoint: `entry` where the manifest knows it, `path` where the list names a file."""

    text: str
    path: Path | None
    model: str | None
    sha256: str | None
    entry: Published | None


def read_required(path: Path) -> list[Required]:
    """The items of a list; raises BenchError naming file and line on what is neither a known name nor a path."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(
            f"{path} cannot be read ({getattr(error, 'strerror', None) or 'not text'})", "give a text file"
        ) from error
    items = []
    for number, line in enumerate(lines, 1):
        try:
            parts = shlex.split(line, comments=True)
        except ValueError as error:
            raise BenchError(f"{path}:{number}: {error}", FORM) from error
        if parts:
            items.append(_item(parts, f"{path}:{number}: "))
    if not items:
        raise BenchError(f"{path} names no checkpoint", FORM)
    return items


def required(name: str, model: str | None, sha256: str | None = None, where: str = "") -> Required:
    """One checkpoint by name or path; raises BenchError, its text led by `where`, on an unknown name."""
    known = registered()
    if name in known:
        models = known[name]
        if model is None and len(models) > 1:
            raise BenchError(f"{where}{name} is for several models", f"add the model: {', '.join(sorted(models))}")
        entry = published(name, model or next(iter(models)))
        return Required(
            text=f"{name} {entry.entry.model}", path=None, model=entry.entry.model, sha256=sha256, entry=entry
        )
    path = Path(name)
    if not path.exists() and not path.suffix and "/" not in name:
        raise BenchError(f"{where}'{name}' is neither known weights nor a file", closest(name, known))
    known_file = by_file(path)
    return Required(
        text=name,
        path=path,
        model=model or (known_file.entry.model if known_file else None),
        sha256=sha256,
        entry=known_file,
    )


def _item(parts: list[str], where: str) -> Required:
    facts: dict[str, str] = {}
    for part in parts[1:]:
        key, equals, value = part.partition("=")
        if key not in ("model", "sha256") or not equals or not value:
            raise BenchError(f"{where}'{part}' is not a fact of a checkpoint", FORM)
        facts[key] = value
    if "sha256" in facts and not is_sha256(facts["sha256"]):
        raise BenchError(f"{where}sha256 is '{facts['sha256']}'", "give 64 lower-case hex digits")
    return required(parts[0], facts.get("model"), facts.get("sha256"), where)


CHECKS = ("exists", "size", "hash", "opens", "layout", "keys", "trained", "features")
TOLERANCE = 0.02  # of sizes that a listing prints in MB
NOT_REACHED, UNKNOWN, GOOD = "-", "unknown", "ok"


@dataclass
class Finding:
    """One checkpoint: an outcome for each of CHECKS, and what is wrong."""

    item: Required
    path: Path | None = None
    sha256: str = ""
    outcome: dict[str, str] = field(default_factory=lambda: dict.fromkeys(CHECKS, NOT_REACHED))
    problems: list[str] = field(default_factory=list)

    def said(self, check: str, problem: str | None) -> None:
        """Note how a check ended."""
        self.outcome[check] = GOOD if problem is None else "FAILED"
        if problem is not None:
            self.problems.append(problem)


def examine(item: Required, folder: Path, features: Path | None = None) -> Finding:
    """All checks on one checkpoint; `folder` holds fetched weights, `features` what its publishers' code gave. What is
    wrong with a checkpoint is found, not raised.
    """
    found = Finding(item=item)
    try:
        found.path = _path(item, folder)
    except BenchError as error:  # it was fetched and has changed since
        place = place_of(item.entry.entry.name, item.entry, folder) if item.entry else None
        found.said("exists", None if place and place.is_file() else _absent(item))
        found.said("hash", error.what)
        return found
    found.said("exists", None if found.path and found.path.is_file() else _absent(item))
    if found.path is None or not found.path.is_file():
        return found
    _size(found, found.path)
    try:
        state = read_state(found.path)
    except BenchError as error:
        found.said("opens", error.what)
        return found
    found.sha256 = state.sha256
    found.said("opens", None)
    _hash(found, folder)
    try:
        model = _content(found, state)
    except BenchError as error:
        found.said("keys", error.what)
        return found
    if features is not None and model is not None:
        from fgmae_bench.weights.features import differences  # here, because it builds a model

        found.said("features", "; ".join(differences(features, model, found.path)) or None)
    elif features is not None:
        found.outcome["features"] = UNKNOWN
    return found


def _path(item: Required, folder: Path) -> Path | None:
    if item.path is not None or item.entry is None:
        return item.path
    return find_weights(item.entry.entry.name, item.entry.entry.model, folder)


def _absent(item: Required) -> str:
    if item.path is not None or item.entry is None:
        return "no such file"
    return f"not fetched: python -m fgmae_bench.weights fetch {item.entry.entry.name} --model {item.entry.entry.model}"


def _size(found: Finding, path: Path) -> None:
    entry, size = found.item.entry, path.stat().st_size
    if entry and entry.entry.size is not None:
        found.said("size", None if size == entry.entry.size else f"{size} bytes instead of {entry.entry.size}")
    elif entry and entry.entry.about_mb is not None:
        fits = abs(size / 1e6 / entry.entry.about_mb - 1) <= TOLERANCE
        found.said("size", None if fits else f"{size / 1e6:.1f} MB instead of about {entry.entry.about_mb:g}")
    else:
        found.outcome["size"] = UNKNOWN


def _hash(found: Finding, folder: Path) -> None:
    """Against the list, the manifest, the pin of its first use, and the digits in its name."""
    entry, item = found.item.entry, found.item
    claims = [item.sha256, entry.sha256 if entry else None, name_hash(found.path.name) if found.path else None]
    if entry and item.path is None:
        claims.append(read_pins(folder / PINS).get(str(entry.hub)))
    wrong = [claim for claim in claims if claim and not found.sha256.startswith(claim)]
    if wrong:
        found.said("hash", f"SHA-256 {found.sha256} instead of {wrong[0]}")
    else:
        verified = any(claims) or (
            entry is not None and item.path is None
        )  # a fetched file was held against the hub's own
        found.outcome["hash"] = GOOD if verified else UNKNOWN


def _content(found: Finding, state: State) -> str | None:
    """Layout, keys, shapes, finite numbers, and whether they have learnt; the model that it is for, None if unknown."""
    entry = found.item.entry or by_file(state.path, state.sha256, found.item.model)
    if entry is not None:
        state = of_entry(state, entry.entry)
    tensors, dropped = backbone_of(state)
    layout = layout_of(state.wrapper, state.prefix, dropped)
    if entry and entry.entry.layout != "any":
        fits = layout == entry.entry.layout
        found.said("layout", None if fits else f"its layout is {layout} instead of {entry.entry.layout}")
    else:
        found.outcome["layout"] = layout
    model = found.item.model or (entry.entry.model if entry else None)
    if model is not None:
        network, optional = empty_network(model, (entry.contract.size if entry else 0) or usual_size(model))
        account(network, state, optional)
        found.said("keys", None)
    else:
        found.outcome["keys"] = UNKNOWN
        bad = next(
            (n for n, t in tensors.items() if t.is_floating_point() and t.numel() and not t.isfinite().all()), None
        )
        if bad is not None:
            found.said("keys", f"{bad} holds NaN or infinity")
    found.said("trained", untrained(tensors))
    return model
