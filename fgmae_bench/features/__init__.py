"""Features computed once."""
