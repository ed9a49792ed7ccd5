"""What label sources, label schemes and the mistakes of published runs do to a score: grids and series of recorded
runs.
"""
