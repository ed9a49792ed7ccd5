"""Backbones: the FGMAE architectures, any timm model, backscatter statistics, or a factory of the user's; images to features."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from fgmae_bench.checkpoints.load import load_backbone
from fgmae_bench.checkpoints.registry import WEIGHTS, default_cache, locate
from fgmae_bench.config import Model
from fgmae_bench.contract import FGMAE_CONTRACT, RAW_CONTRACT, InputContract
from fgmae_bench.errors import BenchError, closest, unknown
from fgmae_bench.extractors import BackscatterStats, Pool, PooledMap, TokenPool
from fgmae_bench.normalizers import NORMALIZERS
from fgmae_bench.records import note

# FGMAE's names -> timm's: pre-norm, LayerNorm eps 1e-6, qkv bias, MLP ratio 4 (arXiv 2310.18653 and its code).
FGMAE_ARCHITECTURES = {
    "vit_small_patch16": "vit_small_patch16_224",
    "vit_base_patch16": "vit_base_patch16_224",
    "vit_large_patch16": "vit_large_patch16_224",
    "vit_huge_patch14": "vit_huge_patch14_224",
}


@dataclass(frozen=True, kw_only=True)
class WeightsReport:
    """Where weights came from and what became of each key of their file."""

    source: str
    sha256: str | None
    used: int
    dropped: int
    missing: int


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A frozen feature extractor: `module` maps (B, 2, S, S) to (B, feature_dim). `lowers_precision` where autocast may apply."""

    module: nn.Module
    name: str
    pool: Pool | None  # None: the module's own
    feature_dim: int
    contract: InputContract
    weights: WeightsReport
    lowers_precision: bool = True
    custom: bool = False  # a module of the user's
    notes: tuple[dict[str, str], ...] = ()

    @property
    def params(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self.module.parameters())

    def fingerprint(self) -> str:
        """SHA-256 of the structure, the pooling and every tensor: what the feature bank knows the backbone by."""
        digest = hashlib.sha256(f"{self.name}\0{self.pool}\0{self.module!r}".encode())
        for name, tensor in sorted(self.module.state_dict().items()):
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def behaviour(self) -> list[str] | None:
        """Features of one fixed image, rounded, for a module of the user's: its code may change where its tensors do not."""
        if not self.custom:
            return None
        size = self.contract.size
        with torch.inference_mode():
            ramp = torch.linspace(0, 1, 2 * size * size).view(1, 2, size, size)
            features = self.module(ramp.to(next(self.module.parameters(), ramp).device))
        return [f"{value:.2e}" for value in features[0, :64].float().cpu()]  # text: NaN is told later, with the image's name


def build_backbone(model: Model, seed: int, cache: Path | None = None, *, drop_path: float = 0.0) -> Backbone:
    """The backbone that `model` names with its weights, in evaluation mode and frozen; `cache` is where fetched weights lie.

    Random weights are drawn from `seed`; `drop_path` is the rate of stochastic depth when it is trained. Raises BenchError on
    an unknown name, weights that are not here or do not fit, an input size the patches do not divide, a pool that is not there.
    """
    contract = resolve_contract(model)
    file = find_weights_file(model, cache or default_cache())
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        module, pool, feature_dim = _build(model, contract, drop_path)
    weights = WeightsReport(source="random", sha256=None, used=0, dropped=0, missing=0)
    notes: tuple[dict[str, str], ...] = ()
    statistics = isinstance(module, BackscatterStats)
    if statistics or ":" in model.model:
        weights = dataclasses.replace(weights, source="none" if statistics else "module")
    elif file is not None:
        weights, notes = _load(module, model, file)
    module.eval().requires_grad_(False)
    backbone = Backbone(
        module=module, name=model.model, pool=pool, feature_dim=feature_dim, contract=contract, weights=weights,
        lowers_precision=not statistics, custom=":" in model.model, notes=notes,
    )  # fmt: skip
    return _known_by_behaviour(backbone) if backbone.custom else backbone


def find_weights_file(model: Model, cache: Path) -> Path | None:
    """The file that `--weights` means: a registered name's fetched file or a path; None for `random` and where none are loaded."""
    if model.weights == "random" or model.model == "backscatter_stats" or ":" in model.model:
        return None
    if model.weights in WEIGHTS:
        return locate(model.weights, model.model, cache)
    path = Path(model.weights).expanduser()
    if path.is_file():
        return path
    if path.suffix or "/" in model.weights:
        raise BenchError(f"--weights {model.weights}: no such file", f"give a checkpoint, or one of random, {', '.join(sorted(WEIGHTS))}")
    raise unknown("weights", model.weights, ["random", *WEIGHTS])


def _load(module: nn.Module, model: Model, file: Path) -> tuple[WeightsReport, tuple[dict[str, str], ...]]:
    """Load a checkpoint into a ViT: (what became of its keys, notes for the record)."""
    if not isinstance(module, TokenPool):
        raise BenchError(f"--weights {model.weights}: checkpoints are read for ViTs, {model.model} is none", "use --weights random")
    report = load_backbone(module.vit, file)
    source = model.weights if model.weights in WEIGHTS else file.name
    dropped = sum(report.dropped.values())
    weights = WeightsReport(source=source, sha256=report.sha256, used=report.used, dropped=dropped, missing=report.missing)
    return weights, tuple(note("weights", text) for text in report.notes)


def wrap_module(module: nn.Module, model: Model) -> Backbone:
    """A module of the user's as a frozen backbone under the contract that `model` states; (B, 2, S, S) to (B, D) or a map."""
    contract = resolve_contract(model)
    pooled = PooledMap(module)
    dim = _measured_dim(pooled, contract)
    pooled.eval().requires_grad_(False)
    weights = WeightsReport(source="module", sha256=None, used=len(module.state_dict()), dropped=0, missing=0)
    return _known_by_behaviour(
        Backbone(module=pooled, name=model.model, pool=None, feature_dim=dim, contract=contract, weights=weights, custom=True)
    )


def _known_by_behaviour(backbone: Backbone) -> Backbone:
    """A user's module with a hash of its tensors and of what it does to a fixed image: its code is not ours to version."""
    known = hashlib.sha256(f"{backbone.fingerprint()} {backbone.behaviour()}".encode()).hexdigest()
    return dataclasses.replace(backbone, weights=dataclasses.replace(backbone.weights, sha256=known))


def resolve_contract(model: Model) -> InputContract:
    """The contract of the backbone, with `--normalizer` and `--input_size` laid over it."""
    if model.model == "backscatter_stats":
        if model.normalizer not in (None, "db") or model.input_size is not None:
            raise BenchError("backscatter_stats takes raw dB at the dataset's size", "leave out --normalizer and --input_size")
        return RAW_CONTRACT
    if model.normalizer is not None and model.normalizer not in NORMALIZERS:
        raise unknown("normalizer", model.normalizer, NORMALIZERS)
    return dataclasses.replace(
        FGMAE_CONTRACT,
        normalizer=model.normalizer or FGMAE_CONTRACT.normalizer,
        size=model.input_size or FGMAE_CONTRACT.size,
    )


def architecture(model_name: str) -> Callable[..., nn.Module] | None:
    """The timm entry point behind a model name, None for `backscatter_stats`; raises BenchError with the closest names."""
    if model_name == "backscatter_stats":
        return None
    timm_name = FGMAE_ARCHITECTURES.get(model_name, model_name)
    if not timm.is_model(timm_name):
        names = [*FGMAE_ARCHITECTURES, "backscatter_stats", *timm.list_models()]
        hint = closest(model_name, names).split("?")[0]
        hint = f"{hint}? " if hint.startswith("did") else ""
        ours = ", ".join([*FGMAE_ARCHITECTURES, "backscatter_stats"])
        raise BenchError(f"unknown model '{model_name}'", f"{hint}choose from {ours}, any timm name, or module:factory")
    return timm.model_entrypoint(timm_name)


def _build(model: Model, contract: InputContract, drop_path: float) -> tuple[nn.Module, Pool | None, int]:
    """(module, pool, feature dimension)."""
    if model.model == "backscatter_stats":
        return BackscatterStats(), None, BackscatterStats.feature_dim
    if ":" in model.model:
        module: nn.Module = PooledMap(_from_factory(model.model))
        return module, None, _measured_dim(module, contract)
    entry = architecture(model.model)
    assert entry is not None
    timm_name = FGMAE_ARCHITECTURES.get(model.model, model.model)
    more: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
    try:
        inner = timm.create_model(timm_name, in_chans=2, num_classes=0, img_size=contract.size, **more)
    except TypeError:
        inner = timm.create_model(timm_name, in_chans=2, num_classes=0, **more)  # convolutional: no img_size to state
    except AssertionError as error:
        raise BenchError(f"{model.model} cannot be built at {contract.size} px ({error})", "choose another --input_size") from error
    if not isinstance(inner, VisionTransformer):
        if model.pool == "cls":
            raise BenchError(f"{model.model} has no CLS token", "use --pool mean")
        module = PooledMap(inner)
        return module, "mean", _measured_dim(module, contract)
    patch = inner.patch_embed.patch_size[0]
    if contract.size % patch:
        good = contract.size // patch * patch
        raise BenchError(f"--input_size {contract.size} is not divisible by the patch of {patch} px", f"use --input_size {good or patch}")
    pool: Pool = model.pool or "cls"
    if pool == "cls" and inner.cls_token is None:
        raise BenchError(f"{model.model} has no CLS token", "use --pool mean")
    return TokenPool(inner, pool), pool, inner.num_features


def _from_factory(spec: str) -> nn.Module:
    """The module that `package.module:factory` returns when called without arguments."""
    module_name, _, factory_name = spec.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except (ImportError, AttributeError) as error:
        raise BenchError(f"--model {spec}: {error}", "give module:factory, importable from the working directory") from error
    made = factory if isinstance(factory, nn.Module) else factory()
    if not isinstance(made, nn.Module):
        source = inspect.getsourcefile(factory) if callable(factory) else spec
        raise BenchError(f"--model {spec} made {type(made).__name__}, no nn.Module", f"mend the factory in {source}")
    return made


def _measured_dim(module: nn.Module, contract: InputContract) -> int:
    was_training = module.training
    module.eval()
    try:
        with torch.inference_mode():
            out = module(torch.zeros(2, len(contract.bands), contract.size, contract.size))
    except RuntimeError as error:
        raise BenchError(f"the backbone does not take (B, 2, {contract.size}, {contract.size}) ({error})", "take two channels") from error
    module.train(was_training)
    return int(out.shape[1])
