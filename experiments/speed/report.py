"""The report over 1,000 and 10,000 made-up records of 50 epochs, all formats and figures, in a process of its own.

  python experiments/speed/report.py [--sizes 1000 10000]
Expected on 2 cores: 1,000 records under 10 s, 10,000 under 60 s and 1 GB. The page and its side
files are in the time. Where other work shares the cores, what was computed says more than the clock.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from make_records import make_record
from measured import keep

from fgmae_bench.records import record_path

EPOCHS = 50
MODELS = ("vit_small_patch16", "vit_base_patch16", "vit_large_patch16", "vit_huge_patch14")
LRS = (0.01, 0.03, 0.1, 0.3, 1.0)
SEEDS = 5
EXPERIMENT = """title = "Made-up runs of {model}"
module = "linear"
protocol = "linear_probe"
[common]
dataset = "eurosat"
split = "reference"
weights = "fgmae"
[layout]
columns = ["dataset", "run", "model", "recipe", "lr", "weight_decay", "oa", "aa", "loss",
           "published_oa", "delta_oa", "source", "remarks"]
curves = ["loss", "oa", "aa"]
[[runs]]
label = "{model}"
flags = {{ model = "{model}", batch_size = 16, lr = {lrs}, weight_decay = {decays} }}
nproc_per_node = 2
"""


def write_experiments(count: int, folder: Path) -> None:
    """A file a model, whose grid holds every record."""
    folder.mkdir()
    settings = -(-count // (SEEDS * len(MODELS)))
    decays = [1e-4 * (1 + k) for k in range(-(-settings // len(LRS)))]
    for model in MODELS:
        text = EXPERIMENT.format(model=model, lrs=list(LRS[:settings]), decays=decays)
        (folder / f"{model}.toml").write_text(text)


def write_records(count: int, results: Path) -> None:
    """Records that differ in model, learning rate, weight decay and seed: rows of SEEDS records."""
    for i in range(count):
        row, seed = divmod(i, SEEDS)
        model, setting = MODELS[row % len(MODELS)], row // len(MODELS)
        record = make_record(
            model=model,
            seed=seed,
            lr=LRS[setting % len(LRS)],
            weight_decay=1e-4 * (1 + setting // len(LRS)),
            history_epochs=EPOCHS,
            test={"oa": 0.7 + (i % 997) / 5000},
            notes=(("test_is_val", "no val split: nothing was selected"),),
        )
        path = record_path(results, record)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=2), encoding="utf-8")


def require_rows(count: int, results: Path) -> None:
    """Raise where records fill no row of the experiments: the report would be quick by leaving them out."""
    held = [len((results / "tables" / f"{model}.csv").read_text().splitlines()) - 1 for model in MODELS]
    if sum(held) < count / SEEDS:
        raise SystemExit(f"error: {sum(held)} rows of {count} records; the experiments do not match them")


def measure(count: int) -> tuple[float, float, float]:
    """(seconds, processor seconds, MiB at the peak) of one report."""
    with tempfile.TemporaryDirectory() as folder:
        results, experiments = Path(folder) / "results", Path(folder) / "experiments"
        write_records(count, results)
        write_experiments(count, experiments)
        command = [
            sys.executable,
            "-m",
            "fgmae_bench.report",
            "--results_dir",
            str(results),
            "--experiments",
            str(experiments),
        ]
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        require_rows(count, results)
        seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, after.ru_maxrss / 1024


def main() -> None:
    """Print each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[1000, 10_000], help="numbers of records (default: 1000 10000)"
    )
    for count in sorted(parser.parse_args().sizes):
        seconds, processor, mebibytes = measure(count)
        print(
            f"{count:>7,} records: {seconds:6.1f} s, of them {processor:6.1f} s computed, {mebibytes:6.0f} "
            "MiB at the peak",
            flush=True,
        )
        keep(**{f"report_{count}": seconds})


if __name__ == "__main__":
    main()
