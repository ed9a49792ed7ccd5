"""`--weights imagenet`: the weights that timm publishes for a model, loaded by timm itself and accounted for here."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from timm.models import get_pretrained_cfg
from torch import nn

from fgmae_bench.config.contract import BANDS
from fgmae_bench.config.encoders import EMBEDDINGS, HANDMADE, adapter_of
from fgmae_bench.config.run import IMAGENET, Model
from fgmae_bench.errors import BenchError, note
from fgmae_bench.hub.http import HubFile, ask
from fgmae_bench.models.architectures import architecture, from_timm, timm_name
from fgmae_bench.models.backbone import WeightsReport


def published_by_timm(name: str) -> Any:
    """timm's own description (`PretrainedCfg`) of the weights of a model: tag, hub, input, licence.

    Raises BenchError for a model that is not timm's, that timm has no weights for, or whose weights are on no hub:
    those would be read from a pickle.
    """
    if ":" in name or adapter_of(name) or name in (*HANDMADE, EMBEDDINGS):
        raise BenchError(f"--weights {IMAGENET}: {name} is not a model of timm", "choose a timm name, such as resnet50")
    architecture(name)
    try:
        found = get_pretrained_cfg(timm_name(name), allow_unregistered=False)
    except RuntimeError as error:  # an unknown tag behind the dot
        raise BenchError(f"--weights {IMAGENET}: {error}", "leave the tag out for timm's default") from error
    if found is None or not found.hf_hub_id:
        raise BenchError(
            f"--weights {IMAGENET}: timm has no weights for {name} on the hub",
            "timm.list_models(pretrained=True) lists those that it has; or give --weights random",
        )
    return found


def published_file(name: str) -> Path:
    """The file of the weights that timm publishes for a model: in the hub's cache, else fetched into it.

    Only safetensors are taken, which nothing unpickles. Raises BenchError in one line where nobody answers: timm itself
    asks the hub again and again, even for what is in the cache.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError

    source = published_by_timm(name)
    repo, _, revision = source.hf_hub_id.partition("@")
    file = source.hf_hub_filename or "model.safetensors"
    if not file.endswith(".safetensors"):
        file = f"{file.rpartition('.')[0]}.safetensors"
    held = try_to_load_from_cache(repo, file, revision=revision or None)
    if isinstance(held, str):
        return Path(held)
    try:
        ask(HubFile(repo=repo, file=file, revision=revision or "main"))
        return Path(hf_hub_download(repo, file, revision=revision or None))
    except (BenchError, HfHubHTTPError, OSError) as error:
        raise BenchError(
            f"--weights {IMAGENET}: timm's weights of {name} cannot be had ({' '.join(str(error).split())[:200]})",
            "run it once where there is a network, or copy the hub's cache of such a machine here ($HF_HUB_CACHE)",
        ) from error


def account_published(network: nn.Module, model: Model, size: int, seed: int) -> tuple[WeightsReport, dict[str, str]]:
    """(what was loaded, note for the record) of a network that timm has filled with its own weights.

    timm leaves what it cannot convert at random and only logs it, so the network is held against one that is drawn from
    the same seed: a matrix or kernel that is the same in both, and another for another seed, was not loaded, which
    raises BenchError.
    """
    source = published_by_timm(model.model)
    drawn = _drawn(model.model, size, seed)
    left = [key for key, held in network.named_parameters() if held.dim() > 1 and torch.equal(held, drawn[key])]
    if left:
        again = _drawn(model.model, size, seed + 1)
        left = [key for key in left if not torch.equal(again[key], drawn[key])]  # else a constant, as sines of position
    tag = f"{source.architecture}.{source.tag}" if source.tag else source.architecture
    if left:
        raise BenchError(
            f"--weights {IMAGENET}: timm leaves {len(left)} tensors of {tag} at random, first {left[0]}",
            "choose another model",
        )
    channels, side = source.input_size[0], source.input_size[-1]
    text = (
        f"timm's {tag} (hub {source.hf_hub_id}, licence {source.license or 'not stated'}), trained on images of "
        f"{channels} channels at {side} px; its first convolution is adapted to {len(BANDS)} by timm: the kernels of "
        f"the first {len(BANDS)}, times {channels}/{len(BANDS)}"
    )
    state = network.state_dict()
    report = WeightsReport(
        source=f"timm:{tag}",
        sha256=tensors_sha256(state),
        used=len(state),
        dropped=0,
        missing=0,
        choice=f"hub {source.hf_hub_id}",
    )
    return report, note("weights", text)


def _drawn(name: str, size: int, seed: int) -> dict[str, nn.Parameter]:
    """Parameters of a model of timm as it draws them from a seed."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        return dict(from_timm(name, size).named_parameters())


def tensors_sha256(state: dict[str, torch.Tensor]) -> str:
    """SHA-256 over name, shape, type and bytes of every tensor, in the order of names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
