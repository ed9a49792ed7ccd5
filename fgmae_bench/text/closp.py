"""The text encoder of CLOSP: a MiniLM, its vector of the first token, no projection.

Source: DarthReca/closp @ 4938033, models/closp.py, dataset/crisis_land_mark.py: padded to 64 tokens, truncated, the
last hidden state at position 0 as it is. The weights are of the whole model's file, which was trained with the images.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fgmae_bench.checkpoints.names import projection
from fgmae_bench.checkpoints.reader import State, read_state
from fgmae_bench.errors import BenchError
from fgmae_bench.models.class_texts import Embed, TextEncoder
from fgmae_bench.system.files import read_bounded

CONTEXT = 64
PREFIX = "text_model."
UNUSED = ("pooler.", "embeddings.position_ids")  # of a file: what the vector of the first token does not need
TOKENIZER_FILES = ("config.json", "tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json")
MOST = 32 << 20  # bytes of a file of the tokenizer
VOCABULARY = (
    "trees",
    "crops",
    "shrub and scrub",
    "water",
    "grass",
    "built",
    "flooded vegetation",
    "bare",
    "snow and ice",
    "flooded area",
    "earthquake damage",
    "burned area",
)
_BEN = "BigEarthNet v2's images with their labels as texts"
SEEN = {
    "bigearthnet": _BEN,
    "bigearthnet_v2": _BEN,
    "sen1floods11": "its images with their labels as texts",
    "s1f_chips": "images of Sen1Floods11 with their labels as texts",
    "s1f_scenes": "images of Sen1Floods11 with their labels as texts",
}


def closp(weights: Path, tokenizer: Path) -> tuple[TextEncoder, Embed]:
    """(encoder, sentences to vectors) of a whole CLOSP file and a folder with MiniLM's configuration and vocabulary.

    Raises BenchError where transformers is not installed, the file holds no texts or no map of radar to their space.
    """
    try:
        from transformers import AutoTokenizer, BertConfig, BertModel
    except ImportError as error:
        todo = "install it with: pip install 'fgmae-bench[text]'"
        raise BenchError(f"--encoder closp needs transformers, which cannot be imported ({error})", todo) from error
    state = read_state(weights)
    held = {name: tensor for name, tensor in state.outside.items() if name.startswith(PREFIX)}
    if not held or projection(state) is None:
        lacks = "text_model" if not held else "s1_projection"
        raise BenchError(
            f"{weights} holds no {lacks}: it is not a whole CLOSP model",
            "give the file of the whole model: encoders alone, as torchgeo has them, know no texts",
        )
    digest = _tokenizer_sha256(tokenizer)
    try:
        config = BertConfig(**json.loads(read_bounded(tokenizer / "config.json", MOST)))
        words = AutoTokenizer.from_pretrained(str(tokenizer), local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model = BertModel(config, add_pooling_layer=False)
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())[:120]
        raise BenchError(
            f"{tokenizer} is not a folder of a BERT with its tokenizer ({reason})", "give MiniLM's"
        ) from error
    model = _filled(model, state, held).eval()

    def embed(sentences: list[str]) -> NDArray[np.float32]:
        batch = words(sentences, padding="max_length", max_length=CONTEXT, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            out = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        found: NDArray[np.float32] = out.last_hidden_state[:, 0].float().numpy()
        return found

    encoder = TextEncoder(
        name="closp",
        weights=weights.name,
        weights_sha256=state.sha256,
        tokenizer_sha256=digest,
        context=CONTEXT,
        scale=1.0,
        seen=SEEN,
        vocabulary=VOCABULARY,
    )
    return encoder, embed


def _filled(model: Any, state: State, held: dict[str, torch.Tensor]) -> Any:
    """The empty model with its tensors of the file: every key is used, or one that is known to be of no use."""
    own = {name.removeprefix(PREFIX): tensor for name, tensor in held.items()}
    own = {name: tensor for name, tensor in own.items() if not name.startswith(UNUSED)}
    wanted = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    odd = sorted(set(own) ^ set(wanted)) or sorted(name for name in own if tuple(own[name].shape) != wanted[name])
    if odd:
        raise BenchError(
            f"{state.path}: {PREFIX}{odd[0]} does not fit the configuration of the tokenizer's folder",
            "give the folder of the model that it was trained with",
        )
    made = type(model)(model.config, add_pooling_layer=False)  # with the buffers that a file does not hold
    made.load_state_dict({name: tensor.float() for name, tensor in own.items()}, strict=False)
    return made


def _tokenizer_sha256(folder: Path) -> str:
    """SHA-256 of the folder's files that decide on tokens and layers. Raises BenchError for any other folder."""
    present = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if not (folder / "config.json").is_file() or len(present) < 2:
        raise BenchError(
            f"--tokenizer {folder} has no config.json with a vocabulary",
            "give a copy of sentence-transformers/all-MiniLM-L6-v2: config.json, tokenizer.json, vocab.txt",
        )
    digest = hashlib.sha256()
    for path in present:
        content = read_bounded(path, MOST)
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()
