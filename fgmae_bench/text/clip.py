"""Text towers of optical CLIPs by open_clip."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fgmae_bench.checkpoints.reader import read_state
from fgmae_bench.checkpoints.registry import locate
from fgmae_bench.config.encoders import encoders
from fgmae_bench.errors import BenchError
from fgmae_bench.models.class_texts import Embed, TextEncoder
from fgmae_bench.models.encoders.open_clip_images import FOLDER, empty_clip

SAFE = "open_clip_model.safetensors"  # open_clip's own name of a model's file in its folder


def clip(name: str, weights: Path | None, cache: Path) -> tuple[TextEncoder, Embed]:
    """(encoder, sentences to vectors) of a model that open_clip knows, or of a folder with its configuration and file.

    Raises BenchError where open_clip is not installed, knows no such model, or the file does not fit it.
    """
    try:
        import open_clip
    except ImportError as error:
        todo = "install it with: pip install 'fgmae-bench[text]'"
        raise BenchError(
            f"--encoder open_clip needs open_clip_torch, which cannot be imported ({error})", todo
        ) from error
    named = f"{FOLDER}{name}" if Path(name).is_dir() else name
    model = empty_clip(open_clip, named)
    file = weights or _file_of(name, cache)
    state = read_state(file)
    held = {state.prefix + key: tensor for key, tensor in state.tensors.items()} | state.outside
    wanted = model.state_dict()
    odd = sorted(set(held) - set(wanted)) + sorted(set(dict(model.named_parameters())) - set(held))
    if odd := odd or sorted(key for key in held if held[key].shape != wanted[key].shape):
        raise BenchError(f"{file}: {odd[0]} is not as in {name}", "give the file of this model")
    model.load_state_dict({key: tensor.float() for key, tensor in held.items()}, strict=False)
    model.eval()
    tokenizer = _tokenizer(open_clip, named)

    def embed(sentences: list[str]) -> NDArray[np.float32]:
        with torch.inference_mode():
            found: NDArray[np.float32] = model.encode_text(tokenizer(sentences)).float().numpy()
        return found

    words = json.dumps([type(tokenizer).__name__, tokenizer.context_length, getattr(tokenizer, "vocab_size", None)])
    encoder = TextEncoder(
        name=f"open_clip:{Path(name).name}",
        weights=file.name,
        weights_sha256=state.sha256,
        tokenizer_sha256=hashlib.sha256(words.encode()).hexdigest(),
        context=int(tokenizer.context_length),
        scale=float(model.logit_scale.detach().exp()),
    )
    return encoder, embed


def _file_of(name: str, cache: Path) -> Path:
    """The file of a folder, or of the encoder of that name in the registry, fetched before."""
    if Path(name).is_dir():
        file = Path(name) / SAFE
        if not file.is_file():
            raise BenchError(f"{name} has no {SAFE}", "give its file with --weights")
        return file
    known = {entry.variant: entry for entry in encoders().values() if entry.carrier == "open_clip_torch"}
    if name not in known:
        raise BenchError(f"no weights are registered for open_clip's {name}", f"give --weights, or {', '.join(known)}")
    return locate(known[name].weights, known[name].model, cache)


def _tokenizer(open_clip: Any, name: str) -> Any:
    try:
        return open_clip.get_tokenizer(name)
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise BenchError(f"the tokenizer of {name} cannot be had ({reason})", "choose a model of CLIP's own") from error
