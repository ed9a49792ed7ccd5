"""The runs of experiments: expanded, told apart from those that are recorded, and run here or on Slurm."""
