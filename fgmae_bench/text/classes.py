"""Embed the classes of a dataset by a text encoder.

Candidates and templates are those of the card's [texts]; a class without candidates is its name in words, and templates
that the card does not state are the encoder's. The templates of a candidate are averaged and normalised; candidates are
kept, and the best of them scores its class, unless --candidates mean averages them too.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.checkpoints.registry import default_cache
from fgmae_bench.config.cards import load_card
from fgmae_bench.errors import BenchError
from fgmae_bench.models.class_texts import (
    ClassTexts,
    Embed,
    TextEncoder,
    Wording,
    read_class_texts,
    request_key,
    stacked,
    wording_of,
    write_class_texts,
)

OPEN_CLIP = "open_clip:"
CLOSP_TEMPLATES = ("{}",)  # it was trained on bare labels in lower case
CLIP_TEMPLATES = ("a satellite image of {}.", "a radar image of {}.", "an aerial photo of {}.")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What is embedded, by what."""
    parser.add_argument("--dataset", help="dataset name, or path of a card.toml (required)")
    parser.add_argument("--encoder", help="closp, or open_clip:NAME, open_clip:FOLDER (required)")
    parser.add_argument(
        "--weights", help="file of the whole model, images and texts (closp: required; open_clip: default as published)"
    )
    parser.add_argument(
        "--tokenizer", metavar="FOLDER", help="closp: a copy of sentence-transformers/all-MiniLM-L6-v2 (required)"
    )
    parser.add_argument("--templates", nargs="+", help="sentences with {} for the candidate (default: card, encoder)")
    parser.add_argument("--candidates", choices=["max", "mean"], help="how candidates of a class count (default: max)")
    parser.add_argument("--out", metavar="FILE", help="the file to write (default: in the cache, named by its key)")
    parser.add_argument("--cache_dir", "--cache-dir", help="folder of fetched weights and of texts without --out")


def main(given: dict[str, Any]) -> None:
    """Write the file, or say that it is there."""
    for name in ("dataset", "encoder"):
        if name not in given:
            raise BenchError(f"--{name} is missing", "see python -m fgmae_bench.text classes --help")
    card = load_card(given["dataset"])
    if not card.classes:
        raise BenchError(f"{card.title} has no classes", "name a dataset with classes")
    cache = Path(given.get("cache_dir", default_cache()))
    name, rule = given["encoder"], given.get("candidates", "max")
    if name != "closp" and not name.startswith(OPEN_CLIP):
        raise BenchError(f"unknown text encoder '{name}'", "choose closp or open_clip:NAME")
    usual = CLOSP_TEMPLATES if name == "closp" else CLIP_TEMPLATES
    wording = wording_of(card, tuple(given.get("templates", usual)), rule)
    if "templates" in given and wording.templates != tuple(given["templates"]):
        raise BenchError("--templates, and other templates on the card", "leave them out, or change the card's [texts]")
    if bad := next((text for text in wording.templates if text.count("{}") != 1), None):
        raise BenchError(f"--templates '{bad}'", "give sentences with one {} each")
    encoder, embed = _encoder(name, given, cache)
    out = Path(given["out"]) if "out" in given else cache / "texts" / _name(card.name, wording, encoder)
    if out.exists():
        _require_same(out, wording, encoder)
        print(f"{out}: is there already: nothing to do")
        return
    texts = class_texts(wording, encoder, embed)
    write_class_texts(out, texts)
    sentences = sum(map(len, wording.candidates)) * len(wording.templates)
    print(f"{out}: {len(wording.classes)} classes, {sentences} sentences, vectors of {texts.vectors.shape[2]} numbers")
    if outside := texts.outside():
        print(f"not among the texts that {encoder.name} learnt: {', '.join(outside)}")


def _encoder(name: str, given: dict[str, Any], cache: Path) -> tuple[TextEncoder, Embed]:
    if name == "closp":
        from fgmae_bench.text.closp import closp

        for flag in ("weights", "tokenizer"):
            if flag not in given:
                raise BenchError(f"--encoder closp without --{flag}", "see python -m fgmae_bench.text classes --help")
        return closp(Path(given["weights"]), Path(given["tokenizer"]))
    from fgmae_bench.text.clip import clip

    if "tokenizer" in given:
        raise BenchError("--tokenizer with open_clip: the model names its own", "leave it out")
    weights = Path(given["weights"]) if "weights" in given else None
    return clip(name.removeprefix(OPEN_CLIP), weights, cache)


def class_texts(wording: Wording, encoder: TextEncoder, embed: Embed) -> ClassTexts:
    """The vectors of a wording: a candidate's templates normalised, averaged, normalised; then `stacked`."""
    import platform

    from fgmae_bench.system.environment import now

    held = []
    for candidates in wording.candidates:
        sentences = [template.format(text) for text in candidates for template in wording.templates]
        every = _unit(embed(sentences).astype(np.float64))
        each = every.reshape(len(candidates), len(wording.templates), -1).mean(axis=1)
        held.append(_unit(each).astype(np.float32))
    vectors, counts = stacked(held, wording)
    made = {"created": now(), "python": platform.python_version(), **_versions()}
    return ClassTexts(wording=wording, encoder=encoder, vectors=vectors, counts=counts, made=made)


def _unit(x: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(x, axis=-1, keepdims=True)
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise BenchError("the text encoder gives vectors that are 0 or not finite", "check its weights")
    found: NDArray[np.float64] = x / lengths
    return found


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in ("torch", "transformers", "open_clip_torch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _name(dataset: str, wording: Wording, encoder: TextEncoder) -> str:
    return f"{dataset}-{request_key(wording, encoder)[:16]}.safetensors"


def _require_same(path: Path, wording: Wording, encoder: TextEncoder) -> None:
    held = read_class_texts(path)
    if (held.wording, held.encoder) != (wording, encoder):
        raise BenchError(f"{path} is there, of other words or another encoder", "remove it or choose another --out")
