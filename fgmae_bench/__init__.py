"""fgmae_bench: how well do SAR (Sentinel-1) foundation models transfer?"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"


def evaluate(*args: Any, **kwargs: Any) -> Any:
    """Adapt a model of your own to a dataset; see `fgmae_bench.api.evaluate`, which this forwards to without importing
    torch first.
    """
    from fgmae_bench.api import evaluate as run

    return run(*args, **kwargs)


def results(*args: Any, **kwargs: Any) -> Any:
    """Records as a pandas DataFrame, one row a run; see `fgmae_bench.frame.results`."""
    from fgmae_bench.frame import results as read

    return read(*args, **kwargs)
