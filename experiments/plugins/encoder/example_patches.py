"""An encoder's entry: facts alone, so that lists and help need no torch; the network is in a module of its own."""

from __future__ import annotations

from fgmae_bench.config.encoders import Encoder

ENCODER = Encoder(
    model="example-patches",
    weights="random",
    carrier="fgmae-bench-example-encoder",
    code="example_patches_network:make",
    dim=32,
    params=32 * (2 * 8 * 8 + 1),
    patches=(8,),
    maps="one map",
    pooling="mean of the map",
    pooling_of_origin="mean of the map",
)
