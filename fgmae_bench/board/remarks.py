"""Which notes of a record a submission must explain, and the explanations that it brings."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable

import tomli_w

from fgmae_bench.errors import BenchError
from fgmae_bench.records import Record

# Notes that state a fact of the data or the protocol, which a table shows anyway. Any other, also one
# that a later version brings, asks the submitter for a sentence.
HARMLESS = frozenset(
    (
        "synthetic",
        "test_is_val",
        "leaky_split",
        "no_groups",
        "few_groups",
        "rare_class",
        "no_spread",
        "left_out_by_split",
        "invalid_left_out",
        "all_ignore_left_out",
        "nb_classes",
        "too_few_to_judge",
        "band_difference",
        "units_not_told",
        "bands_fed",
        "floored",
        "own_head",
        "pretraining_overlap",
        "pretraining_places",
        "weights",
        "few_labels",
        "no_val_calibration",
        "unlabelled_left_out",
        "rule",
        "penalty_chosen",
        "shared_pass",
        "shared_training",
        "compiled",
        "energy",
        "ignored_flag",
        "fitted_clean",
        "unvalidated",
        "train_stress",
        "looks",
        "despeckler",
        "stress_left_out",
        "theta_assumed",
        "mixed",
        "still_improving",
        "small_batch_norm",
        "lr_off_rule",
        "effective_batch",
    )
)
DIRTY = "git_dirty"  # asked for as a note is: the tree had changes, or no commit is known


def unexplained(record: Record) -> list[str]:
    """The codes that a submission of this record must explain, in order."""
    codes = dict.fromkeys(note["code"] for note in record["notes"] if note["code"] not in HARMLESS)
    dirty = record["environment"]["git_dirty"] is not False
    return [*codes, *([DIRTY] if dirty else [])]


def explained_in(content: bytes, name: str) -> dict[str, str]:
    """The explanations of a file by code; raises BenchError on anything but a table of texts."""
    try:
        held = tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BenchError(
            f"{name}: no TOML that can be read ({str(error)[:100]})", 'write lines such as diverged = "why"'
        ) from error
    return {code: text for code, text in held.items() if isinstance(text, str) and text.strip()}


def as_file(explained: dict[str, str]) -> str:
    """Explanations as their file holds them."""
    return tomli_w.dumps(dict(sorted(explained.items())))


def parsed(pairs: Iterable[str]) -> dict[str, str]:
    """`CODE=TEXT` of a command line by code."""
    found = {}
    for pair in pairs:
        code, equals, text = pair.partition("=")
        if not equals or not text.strip():
            raise BenchError(f"--explain {pair}", 'give CODE="a sentence"')
        found[code] = text.strip()
    return found
