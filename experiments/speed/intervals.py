"""`report --intervals` over 1,000 made-up records: as it is, with the plain bootstrap of before, and without intervals.

  python experiments/speed/intervals.py [--records 1000]
Expected on 2 busy cores: 2.0 s computed without intervals, 81.7 s with those of 1,000 resamples, 10.4 s as it is.
Of ten records seven are single-label, two segmentation, one multi-label (19 classes); 2,000 test samples, 40 groups.
Each way runs in a process of its own, one after the other. Where other work shares the cores, what was computed says
more than the clock.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from make_records import make_record, resealed, store_all
from safetensors.numpy import save

from fgmae_bench.metrics.intervals import Units, replicates
from fgmae_bench.report import __main__ as entry
from fgmae_bench.report import predictions

SAMPLES, GROUPS = 2000, 40
CLASSES = {"single": 10, "segmentation": 8, "multi": 19}
KINDS = ("single", "single", "segmentation", "single", "multi", "single", "single", "segmentation", "single", "single")
WAYS = {"none": "no intervals", "bootstrap": "1,000 resamples", "jackknife": "as it is"}
EXPERIMENT = """title = "Made-up runs"
module = "linear"
protocol = "linear_probe"
[common]
dataset = "eurosat"
split = "reference"
weights = "fgmae"
[layout]
columns = ["dataset", "run", "lr", "weight_decay", "oa", "miou", "map_micro"]
curves = []
[[runs]]
label = "ViT-S"
flags = { model = "vit_small_patch16" }
nproc_per_node = 2
"""


def tensors(kind: str, random: np.random.Generator) -> dict[str, np.ndarray]:
    """What a run of this kind stores."""
    k = CLASSES[kind]
    if kind == "segmentation":
        return {"confusion": random.integers(0, 500, (SAMPLES, k, k)) + 3000 * np.eye(k, dtype=np.int64)}
    if kind == "multi":
        targets = random.random((SAMPLES, k)) < 0.15
        scores = 2 * targets + random.normal(size=targets.shape)
        return {"logits": scores.astype(np.float32), "targets": targets.astype(np.uint8)}
    targets = np.arange(SAMPLES) % k
    scores = 2 * np.eye(k)[targets] + random.normal(size=(SAMPLES, k))
    return {"logits": scores.astype(np.float32), "targets": targets}


def write(count: int, root: Path) -> None:
    """Records with predictions of samples in groups, and an experiment."""
    ids = [f"chip {i:05}" for i in range(SAMPLES)]
    groups = json.dumps([f"scene {i * GROUPS // SAMPLES:02}" for i in range(SAMPLES)])
    of_ids = hashlib.sha256("\n".join(ids).encode()).hexdigest()
    random = np.random.default_rng(0)
    (root / "predictions").mkdir(parents=True)
    for i in range(count):
        kind = KINDS[i % len(KINDS)]
        record = make_record(seed=i % 5, weight_decay=1e-4 * (1 + i // 5))
        lists = {"ids": json.dumps(ids), "groups": groups}
        lists["classes"] = json.dumps([f"class {k}" for k in range(CLASSES[kind])])
        content = save(tensors(kind, random), lists)
        (root / "predictions" / f"{record['run_id']}.safetensors").write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        record = resealed(
            record, "predictions", {"sha256": digest, "file": f"predictions/{record['run_id']}.safetensors"}
        )
        store_all([resealed(record, "dataset", "sample_ids_sha256", "test", of_ids)], root)
    (root / "experiments").mkdir()
    (root / "experiments" / "made_up.toml").write_text(EXPERIMENT)


def plain(units: Units, **_: Any) -> dict[str, Any]:
    """Percentile intervals of 1,000 resamples, as they were before there was a jackknife."""
    found = {name: np.quantile(values, [0.025, 0.975]).tolist() for name, values in replicates(units).items()}
    return {"level": 0.95, "over": "groups", "units": units.count, "replicates": 1000, "test": found}


def report(way: str, root: Path) -> None:
    """The report, in this process."""
    if way == "bootstrap":
        predictions.intervals = plain
    flags = [] if way == "none" else ["--intervals"]
    sys.argv = ["report", "--results_dir", str(root), "--experiments", str(root / "experiments"), *flags]
    sys.argv += ["--formats", "md", "--out", str(root / way)]
    sys.exit(entry.main())


def measure(way: str, root: Path) -> tuple[float, float]:
    """(seconds, processor seconds) of one report."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, __file__, "--way", way, "--root", str(root)]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1000, help="(default: 1000)")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        report(options.way, options.root)
    with tempfile.TemporaryDirectory() as folder:
        write(options.records, Path(folder) / "results")
        for way, words in WAYS.items():
            seconds, processor = measure(way, Path(folder) / "results")
            times = f"{seconds:6.1f} s, of them {processor:6.1f} s computed"
            print(f"{options.records:,} records, {words:<16} {times}", flush=True)


if __name__ == "__main__":
    main()
