"""Runs, cards and flags as data."""
