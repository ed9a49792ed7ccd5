"""Tests of physics cards: what each model loses beyond backscatter statistics; one hypothesis, and Holm over the rest.

  python experiments/statistics/card_tests.py --primary galileo:speckle:3.4 [--results_dir results] [--experiment FILE]

With an experiment file the cards that fill its rows, without one every card of the dataset, give one test a stress
where their null stands beside them, at the middle severity of its ladder. The primary hypothesis is tested as it is,
all others are one family, whose p-values Holm's method adjusts together.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fgmae_bench.config.experiments import load_experiment, matches
from fgmae_bench.metrics.significance import holm
from fgmae_bench.records import Record, all_records


def tests_of(records: list[Record], primary: tuple[str, str, float]) -> list[dict[str, Any]]:
    """One test a card and stress, the primary one first."""
    found = []
    for record in records:
        source = record["model"]["weights"]["source"]
        name = f"{record['model']['name']} ({source}, seed {record['config']['recipe']['seed']})"
        for stress, tolerance in record["metrics"].get("tolerance", {}).items():
            items = [item for item in record["stress"] if item["name"] == stress]
            wanted = primary[2] if (source, stress) == primary[:2] else items[len(items) // 2]["severity"]
            item = next(item for item in items if item["severity"] == wanted)
            metrics = item["metrics"]
            if "null" not in tolerance or metrics.get("beyond_null_p") is None:
                continue
            found.append(
                {
                    "name": name,
                    "stress": stress,
                    "severity": wanted,
                    "unit": item["unit"],
                    "gap": metrics["beyond_null"],
                    "interval": metrics["beyond_null_interval"],
                    "p": metrics["beyond_null_p"],
                    "primary": (source, stress, wanted) == primary,
                }
            )
    rest = [test for test in found if not test["primary"]]
    for test, adjusted in zip(rest, holm([test["p"] for test in rest]), strict=True):
        test["adjusted"] = adjusted
    return [test for test in found if test["primary"]] + sorted(rest, key=lambda test: (test["adjusted"], test["p"]))


def main() -> None:
    """Print the tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results_dir", type=Path, default=Path("results"))
    parser.add_argument("--dataset", default="s1f_chips")
    parser.add_argument("--primary", default="galileo:speckle:3.4", help="WEIGHTS:STRESS:SEVERITY")
    parser.add_argument("--experiment", type=Path, help="only the cards that fill rows of this file")
    options = parser.parse_args()
    weights, stress, severity = options.primary.split(":")
    found, _ = all_records(options.results_dir)
    cards = [record for _, record in found if record.get("stress") and record["dataset"]["name"] == options.dataset]
    if options.experiment is not None:
        planned = load_experiment(options.experiment)
        cards = [card for card in cards if any(matches(planned, run, card) for run in planned.runs)]
    print("| model | stress | severity | change beyond statistics | 95 % | p | Holm |")
    print("|---|---|---|---|---|---|---|")
    for test in tests_of(cards, (weights, stress, float(severity))):
        low, high = test["interval"]
        adjusted = "primary" if test["primary"] else f"{test['adjusted']:.3f}"
        where = f"{test['severity']:g} {test['unit']}"
        cells = [test["name"], test["stress"], where, f"{test['gap']:+.3f}", f"{low:+.3f} to {high:+.3f}"]
        print("| " + " | ".join([*cells, f"{test['p']:.4f}", adjusted]) + " |")


if __name__ == "__main__":
    main()
