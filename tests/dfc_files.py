"""Small files in the layouts of DFC2020 and SEN12MS, written with rasterio alone, for tests that break them."""

import numpy as np
import rasterio
from rasterio.transform import Affine

from fgmae_bench.data.samples import Samples, sample_facts

SIZE = 256


def write(path, pixels):
    """Pixels (C, H, W) of any type as a GeoTIFF, EPSG:4326 and no transform."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    profile = {"driver": "GTiff", "dtype": pixels.dtype.name, "count": count, "height": height, "width": width}
    with rasterio.open(path, "w", **profile, crs="EPSG:4326", transform=Affine.identity()) as target:
        target.write(pixels)


def image(seed, bands=2, size=SIZE, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return (rng.normal(0, 2, (bands, size, size)) - np.array([12.0, 18.5, 15.0])[:bands, None, None]).astype(dtype)


def tile(root, collection, folder, scene, patch, *, kinds=("lc", "dfc"), pixels=None, dfc=None, lc=None):
    """One tile with the labels of `kinds`."""
    rng = np.random.default_rng(patch + 1000)
    pixels = image(patch) if pixels is None else pixels
    coarse = np.repeat(np.repeat(rng.integers(1, 18, (4, 8, 8)), 32, 1), 32, 2)
    coarse[1:] = 1
    lc = coarse if lc is None else lc
    dfc = rng.choice([1, 2, 4, 5, 6, 7, 9, 10], (1, SIZE, SIZE)) if dfc is None else dfc
    held = {"s1": pixels, "lc": lc.astype(np.uint16), "dfc": dfc.astype(np.int32)}
    for kind in ("s1", *kinds):
        write(root / collection / f"{kind}_{folder}" / f"{collection}_{kind}_{scene}_p{patch}.tif", held[kind])


def dfc2020(root, validation=2, test=3):
    for patch in range(validation):
        tile(root, "ROIs0000_validation", "validation", 0, patch)
    for patch in range(100, 100 + test):
        tile(root, "ROIs0000_test", "0", 0, patch)
    return root


def quadrant_hashes(card, index, cache):
    """Hashes (N, 4) of the quadrants of each image."""
    return sample_facts(Samples(card=card, index=index), ("quadrants",), cache)["quadrants"]
