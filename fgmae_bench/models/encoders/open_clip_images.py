"""Image towers of optical CLIPs by open_clip: a control that sees VV, VH and their ratio as colours."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fgmae_bench.config.encoders import Encoder
from fgmae_bench.errors import BenchError
from fgmae_bench.models.encoders.adapter import NOTHING, Adapter, Given, carrier

FOLDER = "local-dir:"  # how open_clip names a folder with open_clip_config.json


class OpenClipImages(Adapter):
    """A CLIP's image tower with its projection: images (B, 2, S, S) in [0, 1] to the space of texts (B, D).

    Red is VV, green VH, blue their difference on the scale of the window, (1 + VV - VH) / 2, then CLIP's own means and
    deviations of colours.
    """

    has_map = False

    def __init__(self, network: Any, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__(network)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def colours(self, images: Tensor) -> Tensor:
        """(B, 2, S, S) to the tower's input (B, 3, S, S)."""
        vv, vh = images[:, :1], images[:, 1:]
        picture = torch.cat([vv, vh, (1 + vv - vh) / 2], dim=1)
        return (picture - self.get_buffer("mean")) / self.get_buffer("std")

    def forward(self, images: Tensor, given: Given = NOTHING) -> Tensor:
        """(B, 2, S, S) to (B, D, 1, 1)."""
        return self.pooled(images, given)[:, :, None, None]

    def pooled(self, images: Tensor, given: Given = NOTHING) -> Tensor:
        """(B, 2, S, S) to (B, D), not normalised."""
        found: Tensor = self.network(self.colours(images))
        return found


def empty_clip(open_clip: Any, name: str) -> Any:
    """A whole CLIP with random weights, by a name that open_clip knows or `local-dir:FOLDER`; it reads no weights.

    Raises BenchError on a name that it does not know.
    """
    if not name.startswith(FOLDER) and name not in open_clip.list_models():
        raise BenchError(f"open_clip knows no model {name}", "open_clip.list_models() lists those that it knows")
    if name.startswith(FOLDER) and not (Path(name.removeprefix(FOLDER)) / "open_clip_config.json").is_file():
        raise BenchError(f"{name.removeprefix(FOLDER)} has no open_clip_config.json", "give the model's folder")
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it warns that nothing was loaded, which is what was asked for
    try:
        device = torch.get_default_device()  # meta, where nothing is to be drawn
        return open_clip.create_model(name, load_weights=False, pretrained_text=False, device=device)
    except (RuntimeError, ValueError, TypeError, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise BenchError(f"open_clip cannot build {name} ({reason})", "give another model") from error
    finally:
        logging.disable(before)


def make(entry: Encoder, size: int, patch: int) -> OpenClipImages:
    """The image tower with random weights."""
    open_clip = carrier(entry, "open_clip")
    whole = empty_clip(open_clip, entry.variant)
    side = whole.visual.image_size
    side = side[0] if isinstance(side, tuple) else side
    if size != side:
        raise BenchError(f"--input_size {size}: {entry.model} takes {side} px", f"use --input_size {side}")
    return OpenClipImages(whole.visual, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
