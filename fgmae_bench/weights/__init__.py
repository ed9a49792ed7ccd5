"""Commands on checkpoints; see `python -m fgmae_bench.weights --help`."""
