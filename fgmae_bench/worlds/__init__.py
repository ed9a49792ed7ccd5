"""Synthetic worlds: seeded, physically plausible scenes written in each dataset's true on-disk layout."""
