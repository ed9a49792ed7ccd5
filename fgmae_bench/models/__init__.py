"""Backbones under their contracts, pooling, taps and heads."""
