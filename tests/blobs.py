"""Classes as clusters of features, for the tests of probes."""

import numpy as np


def clusters(n, seed=0, classes=5, dim=24, spread=2.5):
    """Overlapping classes of uneven size in features of uneven scale: (n, dim) float32 and labels."""
    centres = np.random.default_rng(99).normal(0, 1, (classes, dim))
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    x = (centres[labels] + spread * rng.normal(0, 1, (n, dim))) * np.linspace(0.1, 5, dim) + 3
    return x.astype(np.float32), labels.astype(np.int64)
