"""Datasets, from nothing to ready."""
