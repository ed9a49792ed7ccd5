"""Checkpoints: files of others to tensors, nothing executed, every key accounted for."""
