"""What label sources, schemes and published mistakes do to a score: grids and series of recorded runs."""
