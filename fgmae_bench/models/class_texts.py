"""The texts of a dataset's classes as vectors: a file that says of which classes, words and encoder they are."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from fgmae_bench.config.card import Card
from fgmae_bench.config.strict import from_plain
from fgmae_bench.errors import BenchError, printable
from fgmae_bench.system.files import read_bounded, replacing

FORMAT = 1
METADATA = "class_texts"
MOST = 64 << 20  # bytes of a file; 1,000 classes of 10 candidates and 768 numbers have 31 MB
Embed = Callable[[list[str]], NDArray[np.float32]]  # sentences to vectors (N, D), not normalised
UNIT = 1e-3  # how far the length of a vector may be from 1
AGAIN = "make it again with: python -m fgmae_bench.text classes"


@dataclass(frozen=True, kw_only=True)
class Wording:
    """What is asked of a text encoder: classes in order, the candidates of each, templates, and how candidates count:
    `max` of their similarities, or their `mean` embedding.
    """

    classes: tuple[str, ...]
    candidates: tuple[tuple[str, ...], ...]
    templates: tuple[str, ...]
    rule: Literal["max", "mean"] = "max"


@dataclass(frozen=True, kw_only=True)
class TextEncoder:
    """What made the vectors: `weights_sha256` is of the file that holds the image encoder too, `scale` multiplies a
    cosine to a logit, `seen` are datasets it was trained on and how, `vocabulary` the only texts of its training.
    """

    name: str
    weights: str
    weights_sha256: str
    tokenizer_sha256: str
    context: int
    scale: float
    seen: dict[str, str] = field(default_factory=dict)
    vocabulary: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ClassTexts:
    """Vectors (C, M, D) of length 1, of which the first `counts` (C,) of each class count."""

    wording: Wording
    encoder: TextEncoder
    vectors: NDArray[np.float32]
    counts: NDArray[np.int64]
    made: dict[str, str]  # when, and by which versions: no part of the key

    @property
    def key(self) -> str:
        """SHA-256 of wording, encoder and vectors: what a run knows the file by."""
        digest = hashlib.sha256(_asked(self.wording, self.encoder))
        digest.update(self.counts.astype("<i8").tobytes() + self.vectors.astype("<f4").tobytes())
        return digest.hexdigest()

    def cosines(self, images: NDArray[np.float32]) -> NDArray[np.float64]:
        """Cosines (N, C) of images (N, D): of each class the largest over its candidates."""
        x = images.astype(np.float64)
        x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
        every = np.einsum("nd,cmd->ncm", x, self.vectors.astype(np.float64))
        mask = np.arange(self.vectors.shape[1]) < self.counts[:, None]
        found: NDArray[np.float64] = np.where(mask, every, -np.inf).max(axis=2)
        return found

    def alike(self) -> list[tuple[str, ...]]:
        """Classes of the same candidates, which no image can tell apart."""
        together: dict[frozenset[str], list[str]] = {}
        for name, candidates in zip(self.wording.classes, self.wording.candidates, strict=True):
            together.setdefault(frozenset(candidates), []).append(name)
        return [tuple(names) for names in together.values() if len(names) > 1]

    def outside(self) -> list[str]:
        """Candidates that are not among the only texts the encoder learnt; none where those are not known."""
        known = set(self.encoder.vocabulary)
        return sorted({text for texts in self.wording.candidates for text in texts if known and text not in known})


def request_key(wording: Wording, encoder: TextEncoder) -> str:
    """SHA-256 of what is asked: names the file before the vectors are made."""
    return hashlib.sha256(_asked(wording, encoder)).hexdigest()


def _asked(wording: Wording, encoder: TextEncoder) -> bytes:
    body = {"wording": asdict(wording), "encoder": asdict(encoder)}
    return json.dumps(body, sort_keys=True).encode()


def words_of(name: str) -> tuple[str, ...]:
    """Candidates of a class by its name: `SeaLake` is "sea lake"; a comma, a slash or `_or_` parts synonyms."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name.replace("_or_", ",").replace("/", ",").replace("_", " "))
    return tuple(dict.fromkeys(text for part in spaced.split(",") if (text := " ".join(part.lower().split()))))


def wording_of(card: Card, templates: tuple[str, ...], rule: Literal["max", "mean"] = "max") -> Wording:
    """The wording of a card's classes; `templates` hold where the card states none."""
    stated = card.texts
    candidates = tuple((stated.candidates.get(name) if stated else None) or words_of(name) for name in card.classes)
    for name, texts in zip(card.classes, candidates, strict=True):
        if not texts:
            raise BenchError(f"the class '{name}' has no words", "give some on the card: [texts.candidates]")
    own = stated.templates if stated else ()
    return Wording(classes=card.classes, candidates=candidates, templates=own or templates, rule=rule)


def stacked(vectors: list[NDArray[np.float32]], wording: Wording) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(vectors (C, M, D), counts (C,)) of the candidates (m, D) of each class, of length 1; `mean` averages them."""
    if wording.rule == "mean":
        vectors = [held.mean(axis=0, keepdims=True) for held in vectors]
        vectors = [held / np.linalg.norm(held, axis=1, keepdims=True) for held in vectors]
    counts = np.array([len(held) for held in vectors])
    whole = np.zeros((len(vectors), int(counts.max()), vectors[0].shape[1]), np.float32)
    for row, held in zip(whole, vectors, strict=True):
        row[: len(held)] = held
    return whole, counts


def write_class_texts(path: Path, texts: ClassTexts) -> None:
    """Write a file that appears whole."""
    said = {
        "format": FORMAT,
        "wording": asdict(texts.wording),
        "encoder": asdict(texts.encoder),
        "made": texts.made,
        "key": texts.key,
    }
    tensors: dict[str, NDArray[Any]] = {"text": np.ascontiguousarray(texts.vectors), "counts": texts.counts}
    with replacing(path) as temporary:
        temporary.write_bytes(safetensors.numpy.save(tensors, metadata={METADATA: json.dumps(said)}))


def read_class_texts(path: Path) -> ClassTexts:
    """The texts of a file. Raises BenchError on damage, another form, and vectors that are not of length 1."""
    try:
        content = read_bounded(path, MOST)
        tensors = safetensors.numpy.load(content)
        said = json.loads(_metadata(content)[METADATA])
        if said["format"] != FORMAT:
            raise BenchError(f"{path}: it has the form {said['format']!s:.20}", f"this version reads {FORMAT}; {AGAIN}")
        wording = from_plain(Wording, said["wording"], f"{path}: wording")
        encoder = from_plain(TextEncoder, said["encoder"], f"{path}: encoder")
        vectors, counts = tensors["text"], tensors["counts"]
        made = {str(name): str(value) for name, value in said["made"].items()}
        key = said["key"]
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise BenchError(
            f"{path}: it is not a whole file of class texts ({printable(str(error))[:100]})", AGAIN
        ) from error
    if len(wording.candidates) != len(wording.classes) or not wording.classes:
        raise BenchError(f"{path}: its classes and candidates are not equally many", AGAIN)
    texts = ClassTexts(wording=wording, encoder=encoder, vectors=vectors, counts=counts, made=made)
    _check_vectors(path, texts)
    if texts.key != key:
        raise BenchError(f"{path}: its vectors or words were changed after it was made", AGAIN)
    return texts


def _metadata(content: bytes) -> dict[str, str]:
    size = int.from_bytes(content[:8], "little")
    held: dict[str, Any] = json.loads(content[8 : 8 + size])
    found: dict[str, str] = held["__metadata__"]
    return found


def _check_vectors(path: Path, texts: ClassTexts) -> None:
    vectors, counts, wording = texts.vectors, texts.counts, texts.wording
    wanted = [1 if wording.rule == "mean" else len(held) for held in wording.candidates]
    fits = vectors.dtype == np.float32 and vectors.ndim == 3 and counts.dtype == np.int64
    if not fits or counts.tolist() != wanted or vectors.shape[:2] != (len(wanted), max(wanted)):
        raise BenchError(f"{path}: its vectors are not those of its candidates", AGAIN)
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=2)
    for name, held, count in zip(wording.classes, lengths, counts, strict=True):
        if not (np.abs(held[:count] - 1) < UNIT).all():
            raise BenchError(f"{path}: a vector of '{name}' has length {held[:count].max():.4g}, not 1", AGAIN)
