"""Zero-shot: images and the texts of classes in one space, compared by their cosine. Nothing is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.config.cards import Card
from fgmae_bench.config.run import Run
from fgmae_bench.errors import BenchError, note
from fgmae_bench.models.backbone import Backbone
from fgmae_bench.models.class_texts import ClassTexts, read_class_texts
from fgmae_bench.models.encoders.open_clip_images import OpenClipImages
from fgmae_bench.models.pooling import PooledMap
from fgmae_bench.probe.fitted import Fitted, Matrix, Part

LISTED = 4  # texts named in a note


def require_texts(run: Run, card: Card, backbone: Backbone) -> ClassTexts:
    """The texts that a run names, held against card and backbone.

    Raises BenchError where they are missing, of other classes or words, of another encoder, or where the backbone has
    no map to the space of texts.
    """
    command = f"python -m fgmae_bench.text classes --dataset {run.data.dataset} --encoder closp --weights FILE"
    if run.execution.class_text is None:
        raise BenchError("--probe zero_shot without --class_text", f"make the file with: {command}")
    path = Path(run.execution.class_text)
    if not path.is_file():
        raise BenchError(f"--class_text {path}: no such file", f"make it with: {command}")
    texts = read_class_texts(path)
    _require_words(path, texts, card)
    if _dimension(backbone) is None:
        raise BenchError(
            f"the weights {backbone.weights.source} hold no map from images to texts (s1_projection)",
            "give a whole model of images and texts, such as CLOSP's file: torchgeo's encoders have none",
        )
    if backbone.weights.sha256 != texts.encoder.weights_sha256:
        raise BenchError(
            f"{path} is of the text encoder {texts.encoder.name} in {texts.encoder.weights}, the images are encoded by "
            f"{backbone.weights.source}, another file",
            f"make it with the same file: {command}",
        )
    if (dim := _dimension(backbone)) != texts.vectors.shape[2]:
        raise BenchError(f"{path} has vectors of {texts.vectors.shape[2]} numbers, the images {dim}", f"use {command}")
    return texts


def _require_words(path: Path, texts: ClassTexts, card: Card) -> None:
    """Raise BenchError where the classes are not the card's, in its order, or its own words for them are others."""
    wording, stated = texts.wording, card.texts
    if wording.classes != card.classes:
        pairs = zip(wording.classes, card.classes, strict=False)
        odd = next((f"'{a}' where it has '{b}'" for a, b in pairs if a != b), f"{len(wording.classes)} classes")
        raise BenchError(f"{path} is of other classes than the card {card.name}: {odd}", "make it for this dataset")
    if stated is None:
        return
    if stated.templates and wording.templates != stated.templates:
        raise BenchError(f"{path} is of other templates than the card's [texts]", "make it again for this card")
    for name, held in zip(wording.classes, wording.candidates, strict=True):
        if name in stated.candidates and stated.candidates[name] != held:
            raise BenchError(f"{path} is of other words for '{name}' than the card's [texts]", "make it again")


def _dimension(backbone: Backbone) -> int | None:
    """How many numbers an image has in the space of texts; None for a backbone that is of images alone."""
    if backbone.projection is not None:
        fits = backbone.projection.weight.shape[1] == backbone.feature_dim
        return int(backbone.projection.weight.shape[0]) if fits else None
    module = backbone.module
    in_space = isinstance(module, PooledMap) and isinstance(module.inner, OpenClipImages)
    return backbone.feature_dim if in_space else None


def projected(backbone: Backbone, features: Matrix) -> NDArray[np.float32]:
    """Images (N, D) in the space of texts (N, E), not normalised."""
    held = backbone.projection
    return features if held is None else features @ held.weight.numpy().T + held.bias.numpy()


def zero_shot(backbone: Backbone, run: Run, card: Card, parts: dict[str, Part]) -> Fitted:
    """Logits of the evaluation sets: scale x cosine, of multi-label minus the image's mean over the classes, so that a
    class counts where it is above it.
    """
    texts = require_texts(run, card, backbone)
    cosines = {part: texts.cosines(projected(backbone, held.features)) for part, held in parts.items()}
    multi = card.task == "multi_label"
    logits = {
        part: (texts.encoder.scale * (held - held.mean(axis=1, keepdims=True) if multi else held)).astype(np.float32)
        for part, held in cosines.items()
    }
    return Fitted(
        logits=logits,
        penalty=None,
        parameters={},
        notes=_notes(texts, card, multi),
        retrieval=retrieval(cosines["test"], parts["test"].labels),
    )


def _notes(texts: ClassTexts, card: Card, multi: bool) -> tuple[dict[str, str], ...]:
    wording, encoder = texts.wording, texts.encoder
    many = f"{sum(map(len, wording.candidates))} candidates by their {wording.rule}"
    how = f"{encoder.name}, {len(wording.templates)} templates averaged, {many}, cosines times {encoder.scale:.4g}"
    notes = [note("class_texts", how + ("; a class counts above the image's mean over classes" if multi else ""))]
    if outside := texts.outside():
        more = f" and {len(outside) - LISTED} more" if len(outside) > LISTED else ""
        notes.append(note("outside_vocabulary", f"not among the texts it learnt: {', '.join(outside[:LISTED])}{more}"))
    for names in texts.alike():
        notes.append(note("same_text", f"{' and '.join(names)} have the same text: the first is always chosen"))
    if card.name in encoder.seen:
        notes.append(note("not_zero_shot", f"{encoder.name} was trained on this dataset: {encoder.seen[card.name]}"))
    return tuple(notes)


KS = (1, 5, 10)


def retrieval(similarities: NDArray[Any], targets: NDArray[Any]) -> dict[str, float | None]:
    """Recall at 1, 5 and 10 by similarities (N, C) of N images and C classes; None where k is not below the choices.

    `image_to_text_rK`: share of images that have a class, for which one of theirs is among the K most similar texts.
    `text_to_image_rK`: share of classes that have an image, for which one of theirs is among the K most similar images
    (recall@K of CLIP, Radford et al. 2021). Targets are class numbers (N,) or multi-hot (N, C); of equal similarities
    those that do not belong stand first.
    """
    belongs = np.eye(similarities.shape[1], dtype=bool)[targets] if targets.ndim == 1 else targets.astype(bool)
    found: dict[str, float | None] = {}
    for way, similar, own in (("image_to_text", similarities, belongs), ("text_to_image", similarities.T, belongs.T)):
        asked = own.any(axis=1)
        best = np.where(own, similar, -np.inf).max(axis=1, keepdims=True)
        before = ((similar >= best) & ~own).sum(axis=1)[asked]  # what does not belong and is at least as similar
        for k in KS:
            found[f"{way}_r{k}"] = float((before < k).mean()) if len(before) and k < own.shape[1] else None
    return found
