"""Entry: the texts of classes as vectors, for zero-shot classification."""
