"""Backbones under their contracts, pooling, taps and heads."""

import sys

from fgmae_bench.system.endpoint import hub_endpoint

if "timm" not in sys.modules:
    hub_endpoint()  # a malformed one is a line before timm's imports end on it
# timm imports wandb wherever it is installed, for a log of its own trainer: a fifteenth of the start-up of a run.
if "timm" not in sys.modules and "wandb" not in sys.modules:
    sys.modules["wandb"] = None  # type: ignore[assignment]
    try:
        import timm  # noqa: F401
    finally:
        del sys.modules["wandb"]
