"""Packs: a dataset's samples in one LMDB, written once and read in any order; packs of others are read too."""
