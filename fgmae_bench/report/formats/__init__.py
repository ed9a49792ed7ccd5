"""Files that a table is written to."""
