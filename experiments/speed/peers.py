"""The other ways to the same scores, side by side in one run: a timm and scikit-learn script, and the loop of published
code.

  python experiments/speed/peers.py [--per_class 40] [--model vit_small_patch16]
The script is what a user writes by hand: rasterio, the published view (two `np.quantile` a band), timm's model in
float32 batch by batch, `KNeighborsClassifier(5, metric="cosine")` and `LogisticRegression` on standardised features.
The loop is that of published code: a probe of 50 epochs that forwards every image in every epoch; one epoch is timed
and multiplied. Ours are `linear --probe knn` and `--probe lbfgs` with one penalty on one bank, and the probe of 50
epochs, whole commands without imports. Images, split, weights and precision are the same; the predictions are compared.
Expected: the same kNN and logistic regression, in no more time; the probe in a small share of the loop's.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import rasterio
import torch
from measured import keep
from safetensors.numpy import load_file
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.compose import compose
from fgmae_bench.config.contract import FGMAE_CONTRACT
from fgmae_bench.config.run import Model
from fgmae_bench.models.build import build_backbone
from fgmae_bench.runs.grid import run_grid
from fgmae_bench.worlds.eurosat import write_eurosat

PENALTY, K, EPOCHS, BATCH, SIZE = 0.01, 5, 50, 64, 224


def view(path: Path) -> np.ndarray:
    """The published evaluation view of one file, (2, 224, 224) in [0, 1]."""
    import cv2

    with rasterio.open(path) as source:
        image = source.read().astype(np.float32)
    planes = []
    for band, mean, std in zip(image, FGMAE_CONTRACT.mean, FGMAE_CONTRACT.std, strict=True):
        clipped = np.clip(band, np.quantile(band, 0.01), np.quantile(band, 0.99))
        low, high = mean - 2 * std, mean + 2 * std
        planes.append(np.clip((clipped - low) / (high - low) * 255.0, 0, 255).astype(np.uint8))
    side = round(SIZE * 8 / 7)
    large = cv2.resize(np.stack(planes, axis=-1), (side, side), interpolation=cv2.INTER_LINEAR)
    start = round((side - SIZE) / 2)
    return large[start : start + SIZE, start : start + SIZE].transpose(2, 0, 1).astype(np.float32) / 255


def by_hand(files: list[Path], model: torch.nn.Module) -> tuple[np.ndarray, float, float]:
    """(features (N, D), seconds, seconds of one epoch's forward passes): the script's way, file by file."""
    start = time.perf_counter()
    batches = []
    with torch.inference_mode():
        for i in range(0, len(files), BATCH):
            batches.append(model(torch.from_numpy(np.stack([view(path) for path in files[i : i + BATCH]]))).numpy())
    seconds = time.perf_counter() - start
    return np.concatenate(batches), seconds, seconds


def script(features: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray) -> dict[str, np.ndarray]:
    """Predictions of the test rows by scikit-learn: kNN, and logistic regression of the penalty that ours has."""
    scaler = StandardScaler().fit(features[train])
    x = scaler.transform(features)
    # scikit-learn sums the loss and divides the penalty by 2: C = 1 / (penalty x samples)
    regression = LogisticRegression(C=1 / (PENALTY * len(train)), max_iter=5000, tol=1e-8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = regression.fit(x[train], labels[train])
    neighbours = KNeighborsClassifier(K, metric="cosine", algorithm="brute").fit(features[train], labels[train])
    return {"knn": neighbours.predict(features[test]), "lbfgs": fitted.predict(x[test])}


def ours(world: Path, scratch: Path, model: str, weights: Path, **more: object) -> tuple[float, Path]:
    """(seconds, folder of the results) of one of our commands."""
    card = load_card("eurosat")
    given = {
        "dataset": "eurosat",
        "data_path": str(world),
        "model": model,
        "weights": str(weights),
        "normalizer": "fgmae",
        "amp": "off",
        "device": "cpu",
        "features": "cached",
        "cache_dir": str(scratch / "cache"),
        "results_dir": str(scratch / "results"),
        "output_dir": str(scratch / f"run-{more['probe']}"),
        **more,
    }
    start = time.perf_counter()
    run_grid("linear", compose("linear", given, card), card)
    return time.perf_counter() - start, scratch / "results"


def predictions(results: Path, protocol: str) -> tuple[list[str], np.ndarray]:
    """(ids of the test samples, predicted classes) of the one record of a protocol."""
    from safetensors import safe_open

    (record,) = (results / "records" / "eurosat" / protocol).glob("*.json")
    path = results / "predictions" / f"{json.loads(record.read_text())['run_id']}.safetensors"
    with safe_open(path, "np") as held:
        ids = json.loads(held.metadata()["ids"])
    return ids, load_file(path)["logits"].argmax(1)


def main() -> None:
    """Run the script, then ours on the same split, and compare scores, seconds and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per_class", type=int, default=40)
    parser.add_argument("--model", default="vit_small_patch16")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        world = scratch / "world"
        write_eurosat(world, per_class=options.per_class)
        backbone = build_backbone(Model(model=options.model, weights="random"), 0)
        weights = scratch / "w.safetensors"
        save_file({k: v.contiguous() for k, v in backbone.module.vit.state_dict().items()}, weights)  # type: ignore[union-attr, operator]
        seconds = {"knn": ours(world, scratch, options.model, weights, probe="knn", knn_k=K)[0]}
        seconds["lbfgs"] = ours(world, scratch, options.model, weights, probe="lbfgs", weight_decay=PENALTY)[0]
        batch = min(BATCH, 6 * options.per_class)
        seconds["sgd"], results = ours(
            world, scratch, options.model, weights, probe="sgd", epochs=EPOCHS, batch_size=batch
        )
        memory_ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        ids, got_knn = predictions(results, "knn")
        _, got_lbfgs = predictions(results, "logistic_regression")
        files = sorted(world.rglob("*.tif"))
        names = [f"{path.parent.name}/{path.stem}" for path in files]
        classes = sorted({path.parent.name for path in files})
        labels = np.array([classes.index(path.parent.name) for path in files])
        test = np.array([names.index(id) for id in ids])
        train = np.setdiff1d(np.arange(len(files)), test)
        features, passes, epoch = by_hand(files, backbone.module)
        start = time.perf_counter()
        theirs = script(features, labels, train, test)
        fitting = time.perf_counter() - start
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{options.model}, {len(files)} synthetic images, float32, {torch.get_num_threads()} threads")
    print(
        f"script: features {passes:.1f} s, kNN and logistic regression {fitting:.1f} s; peak {memory:.0f} MiB of both"
    )
    print(
        f"ours: kNN with the bank {seconds['knn']:.1f} s, logistic regression {seconds['lbfgs']:.1f} s, "
        f"probe of {EPOCHS} epochs {seconds['sgd']:.1f} s; peak {memory_ours:.0f} MiB"
    )
    for name, got in (("knn", got_knn), ("lbfgs", got_lbfgs)):
        same, right = (got == theirs[name]).mean(), labels[test]
        print(
            f"{name}: OA ours {(got == right).mean():.4f}, script {(theirs[name] == right).mean():.4f}, "
            f"the same prediction for {same:.2%} of {len(test)} test images"
        )
    ratio = (passes + fitting) / (seconds["knn"] + seconds["lbfgs"])
    loop = EPOCHS * epoch / (seconds["knn"] + seconds["sgd"])
    print(f"script / ours, both scores: {ratio:.2f}x; the published loop of {EPOCHS} epochs / ours: {loop:.0f}x")
    keep(peers_ratio=ratio, peers_loop=loop)


if __name__ == "__main__":
    main()
