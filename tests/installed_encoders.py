"""Encoders of the registry whose libraries this Python can have."""

import pytest

from fgmae_bench.config.encoders import ENCODERS

# Models of no library that is installed here: their contracts and refusals alone are tested.
NOT_HERE = [name for name, entry in ENCODERS.items() if entry.carrier == "terratorch"]
HERE = [name for name in ENCODERS if name not in NOT_HERE]


def needs(entry):
    package = {"rslearn": "rslearn", "torchgeo": "torchgeo", "olmoearth-pretrain-minimal": "olmoearth_pretrain_minimal"}
    if entry.carrier in package:
        pytest.importorskip(package[entry.carrier])
    return entry
