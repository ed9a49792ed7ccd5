"""The runs of experiments: expanded, compared with those that are recorded, and run here or on Slurm."""
