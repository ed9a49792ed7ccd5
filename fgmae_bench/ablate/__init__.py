"""What label sources, schemes, decode heads and published mistakes do to a score: grids and series of recorded runs."""
