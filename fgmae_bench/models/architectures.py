"""Names of architectures to modules: FGMAE's, timm models of two channels, encoders of the registry, user factories."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from fgmae_bench.config.contract import InputContract
from fgmae_bench.config.encoders import EMBEDDINGS, ENCODERS, HANDMADE, Encoder, adapter_of, encoders
from fgmae_bench.config.names import imported
from fgmae_bench.config.plugins import foreign, loaded
from fgmae_bench.config.run import IMAGENET, MODEL_ALIASES, Model
from fgmae_bench.errors import BenchError, closest
from fgmae_bench.models import place
from fgmae_bench.models.embeddings import read_embeddings
from fgmae_bench.models.encoders import mit
from fgmae_bench.models.encoders.adapter import Adapter, OwnPool, require_patches
from fgmae_bench.models.pooling import BackscatterStats, Pool, PooledMap, TokenPool, device_of
from fgmae_bench.models.taps import Vit
from fgmae_bench.models.unet import UNet
from fgmae_bench.models.unread import watched

# FGMAE's names -> timm's: pre-norm, LayerNorm eps 1e-6, qkv bias, MLP ratio 4 (arXiv 2310.18653 and its code).
# SoftCon's are timm's own vit_{small,base}_patch14_dinov2 (layer scale, no registers), those of MoCo, DeCUR and CLOSP
# resnet50.
FGMAE_ARCHITECTURES = {
    "vit_small_patch16": "vit_small_patch16_224",
    "vit_base_patch16": "vit_base_patch16_224",
    "vit_large_patch16": "vit_large_patch16_224",
    "vit_huge_patch14": "vit_huge_patch14_224",
}
TORCHGEO_ARCHITECTURES = {entry.model: entry.code for entry in ENCODERS.values() if entry.carrier == "torchgeo"}

log = logging.getLogger("fgmae_bench")


def architecture(model_name: str) -> Callable[..., nn.Module] | None:
    """The entry point behind a model name, None for what is not a network; raises BenchError with the closest names."""
    if model_name in (*HANDMADE, EMBEDDINGS):
        return None
    if model_name == "unet":
        return UNet
    if model_name in mit.NAMES:
        return partial(mit.make, model_name)
    entry = adapter_of(model_name)
    if entry is not None:
        return _code_of(entry)
    require_known(model_name)
    return timm.model_entrypoint(timm_name(model_name))


def require_known(model_name: str) -> None:
    """Raise BenchError with the closest name of the registry and of timm where `--model NAME` means nothing."""
    known = model_name in (*HANDMADE, EMBEDDINGS, "unet", *mit.NAMES) or adapter_of(model_name) is not None
    if not known and not timm.is_model(timm_name(model_name)):
        named = [*FGMAE_ARCHITECTURES, *encoders(), *HANDMADE, EMBEDDINGS, "unet", *mit.NAMES]
        hint = closest(model_name, [*named, *timm.list_models()]).split("?")[0]
        hint = f"{hint}? " if hint.startswith("did") else ""
        raise BenchError(
            f"unknown model '{model_name}'",
            f"{hint}choose from {', '.join(dict.fromkeys(named))}, any timm name, or module:factory",
        )


def timm_name(model_name: str) -> str:
    """What timm calls a model."""
    return FGMAE_ARCHITECTURES.get(model_name, model_name)


def is_registered(model_name: str) -> bool:
    """Whether `--model NAME` means a model of the suite or of timm: no other model may take such a name."""
    own = {*FGMAE_ARCHITECTURES, *encoders(), *MODEL_ALIASES, *HANDMADE, EMBEDDINGS, "unet", *mit.NAMES}
    return model_name in own or bool(timm.is_model(model_name))


def patch_side(model_name: str, patch_size: int | None = None) -> int:
    """Pixels that the input's side must be a multiple of: a ViT's patch, 1 where any size will do.

    `patch_size` is the one that a run asks for. Raises BenchError where the model does not take it.
    """
    made = architecture(model_name) if ":" not in model_name else None
    entry = adapter_of(model_name)
    if patch_size is not None and patch_size not in (entry.patches if entry else ()):
        takes = sorted(entry.patches) if entry and len(entry.patches) > 1 else []
        todo = f"choose from {', '.join(map(str, takes))}" if takes else "leave it out: its patch is fixed"
        raise BenchError(f"--patch_size {patch_size}: {model_name} does not take it", todo)
    if entry is not None:
        return patch_size or entry.patch
    if made is None:
        return 1
    if model_name == "unet":
        return UNet.patch
    if model_name in mit.NAMES:
        return mit.MixTransformer.reductions[-1]
    return _own_patch(timm_name(model_name))


@functools.cache
def _own_patch(name: str) -> int:
    """The patch of a ViT of timm, 1 for its other models. Remembered: building one takes a quarter of a second."""
    with torch.device("meta"):
        built = timm.model_entrypoint(name)()
    return int(built.patch_embed.patch_size[0]) if isinstance(built, Vit) else 1


def make_module(
    model: Model, contract: InputContract, drop_path: float, published: Path | None = None
) -> tuple[nn.Module, Pool | None, int]:
    """(module, pool, feature dimension), with weights where `published` is a file of timm's own.

    Raises BenchError where the model cannot take the channels and size, the patch or the pool.
    """
    if model.model == "backscatter_stats":
        return BackscatterStats(), None, BackscatterStats.feature_dim
    if model.model == place.NAME:
        made = place.PlaceAndMonth(model.inputs)
        return made, None, made.feature_dim
    if model.model == EMBEDDINGS:
        held = read_embeddings(Path(model.weights))
        return held, None, int(held.vectors.shape[1])
    patch_side(model.model, model.patch_size)  # an unknown name and a patch that it does not take end here
    if ":" in model.model:
        made_by = PooledMap(_from_factory(model.model))
        return made_by, None, measured_dim(made_by, contract)
    if model.model == "unet":
        _require_mean(model)
        if contract.size % UNet.patch:
            good = contract.size // UNet.patch * UNet.patch or UNet.patch
            raise BenchError(f"--input_size {contract.size} is not divisible by {UNet.patch} px", f"use {good}")
        return PooledMap(UNet()), "mean", UNet.channels
    if model.model in mit.NAMES:
        _require_mean(model)
        require_patches(model.model, contract.size, mit.MixTransformer.reductions[-1])
        mixed = OwnPool(mit.make(model.model, drop_path))
        return mixed, "mean", measured_dim(mixed, contract)
    if adapter_of(model.model) is not None:
        _require_mean(model)
        encoder = OwnPool(make_adapter(model.model, contract.size, model.patch_size))
        return encoder, "mean", measured_dim(encoder, contract)
    inner = from_timm(model.model, contract.size, drop_path, published)
    if isinstance(inner, Vit):
        require_patches(model.model, contract.size, inner.patch_embed.patch_size[0])
    averaged = model.pool != "cls" and not isinstance(inner, VisionTransformer)  # as timm itself pools them
    if averaged or not isinstance(inner, Vit):
        _require_mean(model)
        averaging = PooledMap(inner)
        return averaging, "mean", measured_dim(averaging, contract)
    pool: Pool = model.pool or "cls"
    if pool == "cls" and inner.cls_token is None:
        raise BenchError(f"{model.model} has no CLS token", "use --pool mean")
    return TokenPool(inner, pool), pool, inner.num_features


def make_adapter(name: str, size: int, patch_size: int | None = None) -> Adapter:
    """The encoder `name` under our interface, with random weights; `patch_size` None is its default.

    Raises BenchError where its library is not installed, naming the extra, and at a size that it cannot take.
    """
    entry = adapter_of(name)
    assert entry is not None, name
    code, patch = _code_of(entry), patch_side(name, patch_size)
    if entry.only_size and size != entry.only_size:
        what = f"--input_size {size}: {entry.model} takes {entry.only_size} px"
        raise BenchError(what, f"use --input_size {entry.only_size}")
    with foreign(f"the encoder {name} cannot be built", "correct or uninstall its package", entry.code):
        made = code(entry, size, patch)
    if not isinstance(made, Adapter):
        what = f"the encoder {name}: {entry.code} made {type(made).__name__}"
        raise BenchError(what, "let it return a fgmae_bench.models.encoders.adapter.Adapter")
    return made


def _code_of(entry: Encoder) -> Callable[..., Any]:
    """The function that builds an encoder; raises BenchError where an entry names one that is not there."""
    found: Callable[..., Any] = loaded("encoder", entry.model, lambda: imported(entry.code))
    return found


def _require_mean(model: Model) -> None:
    if model.pool == "cls":
        raise BenchError(f"{model.model} has no CLS token", "use --pool mean")


def from_timm(name: str, size: int, drop_path: float = 0.0, published: Path | None = None) -> nn.Module:
    """A timm model of two channels without its head; `published` is the file of the weights that timm has for it."""
    more: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
    if published:  # not by a loader of the model's own, which reads the .npz of the original release
        more |= {"pretrained": True, "pretrained_cfg_overlay": {"file": str(published), "custom_load": False}}
    known = timm_name(name)
    try:
        try:
            made: nn.Module = timm.create_model(known, in_chans=2, num_classes=0, img_size=size, **more)
        except TypeError:
            made = timm.create_model(known, in_chans=2, num_classes=0, **more)  # convolutional: no img_size to state
    except (OSError, SafetensorError) as error:
        raise BenchError(
            f"--weights {IMAGENET}: {published} cannot be read ({_first_line(error)})", "remove it: it is fetched again"
        ) from error
    except AssertionError as error:
        raise BenchError(f"{name} cannot be built at {size} px ({error})", "choose another --input_size") from error
    except (TypeError, ValueError, RuntimeError) as error:
        raise BenchError(
            f"{name} cannot be built for two channels ({_first_line(error)})", "choose a timm model that takes in_chans"
        ) from error
    return made


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def _from_factory(spec: str) -> nn.Module:
    """The module that `package.module:factory` returns when called without arguments.

    Raises BenchError in one line on whatever its code raises, with the file and line.
    """
    module_name, _, factory_name = spec.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), factory_name]):
        raise BenchError(f"--model {spec} is not module:factory", "give names of Python, as in package.module:factory")
    absent = "give module:factory, importable from the working directory"
    with foreign(f"--model {spec}: {module_name} cannot be imported", "correct the module", module_name):
        if importlib.util.find_spec(module_name.partition(".")[0]) is None:
            raise BenchError(f"--model {spec}: No module named '{module_name}'", absent)
        log.info("--model %s: importing %s, which runs its code", spec, module_name)
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if not f"{module_name}.".startswith(f"{error.name}."):  # one that the module itself lacks
                raise
            raise BenchError(f"--model {spec}: {error}", absent) from error
        try:
            factory = getattr(module, factory_name)
        except AttributeError as error:
            raise BenchError(f"--model {spec}: {error}", absent) from error
    made = factory if isinstance(factory, nn.Module) or not callable(factory) else _called(spec, factory)
    if not isinstance(made, nn.Module):
        raise BenchError(
            f"--model {spec} made {type(made).__name__}, not an nn.Module",
            f"correct the factory in {getattr(module, '__file__', None) or module_name}",
        )
    return made


def _called(spec: str, factory: Callable[..., Any]) -> Any:
    """What a factory returns; raises BenchError where it wants arguments, or raises anything."""
    try:
        inspect.signature(factory).bind()
    except ValueError:  # of C code without a signature
        pass
    except TypeError as error:
        what = f"--model {spec} cannot be called without arguments ({error})"
        raise BenchError(what, "give each of them a default, or name a function that takes none") from error
    with foreign(f"--model {spec} failed", "correct the factory", spec.partition(":")[0]):
        return factory()


def measured_dim(module: PooledMap, contract: InputContract) -> int:
    """Feature dimension, measured on zeros, and `unread` of the module; raises BenchError where it does not take the
    contract's input.
    """
    was_training = module.training
    module.eval()
    size, owner = contract.size, type(getattr(module, "inner", module)).__module__
    with (
        foreign(f"the backbone does not take (B, 2, {size}, {size})", "take two channels of that size", owner),
        torch.inference_mode(),
        watched(module, size) as unread,
    ):
        out = module(torch.zeros(2, len(contract.bands), size, size, device=device_of(module)))
    module.train(was_training)
    module.unread = max(unread, default=0)
    return int(out.shape[1])
