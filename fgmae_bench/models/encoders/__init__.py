"""Encoders under one interface: images, and what else they take, to a map and to pooled features."""
