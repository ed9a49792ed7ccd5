"""Stands in for a probe in tests of the suite: takes a probe's command line, remembers what the data holds as one does,
stores its record, prints its id.
"""

import sys
import time
from pathlib import Path

from make_records import make_record, seal

from fgmae_bench.records import record_path, store
from fgmae_bench.system.stamps import remember


def main() -> None:
    """Record at once, or after the seconds that STUB_SECONDS in the working directory names."""
    words = sys.argv[1:]
    given = {word[2:]: words[i + 1] for i, word in enumerate(words) if word.startswith("--") and i + 1 < len(words)}
    pause = Path("STUB_SECONDS")
    with open("started.txt", "a") as stream:
        stream.write(given["seed"] + "\n")
    time.sleep(float(pause.read_text()) if pause.exists() else 0)
    record = make_record(
        model=given["model"],
        seed=int(given["seed"]),
        batch_size=int(given["batch_size"]),
        epochs=int(given["epochs"]),
        world_size=1,
        features="cached",
        synthetic=True,
    )
    record["config"]["model"]["weights"] = given["weights"]
    record.pop("sha256")
    record = seal(record)
    remember(Path(given["cache_dir"]), Path(given["data_path"]), record["dataset"]["content_sha256"])
    there = record_path(Path(given["results_dir"]), record).exists()
    store(record, Path(given["results_dir"]))
    if there:
        print(f"{record['run_id']} is recorded already: nothing to do", file=sys.stderr)
    print(f"{record['run_id']}  loss 0.6000  oa 0.8000  n_test 24")


if __name__ == "__main__":
    main()
