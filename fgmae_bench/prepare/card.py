"""Look at a folder of Sentinel-1 images and write a draft of its card: what was seen, and where it had to be guessed.

python -m fgmae_bench.prepare card DIR
python -m fgmae_bench.prepare card DIR --labels labels.csv
python -m fgmae_bench.prepare card DIR --masks MASKS --out my_floods.toml
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from pathlib import Path
from shlex import quote
from typing import Any

from fgmae_bench.config.cards import Card, card_names, load_card
from fgmae_bench.errors import BenchError, os_error, printable
from fgmae_bench.prepare.card_signal import look_at, signal_of
from fgmae_bench.prepare.card_splits import splits_of
from fgmae_bench.prepare.card_text import Draft

ENTRIES = {"segmentation": "segment", "regression": "linear"}
USUAL_BATCH = 16
PLAIN_TABLES = ("", "labels", "label", "table", "samples", "index", "metadata")  # names of tables that say nothing


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument(
        "folder", metavar="DIR", help="folder of the data: images by class, or with label maps or a table"
    )
    parser.add_argument("--labels", metavar="FILE", help="CSV or Parquet file, one row an image")
    parser.add_argument("--masks", metavar="DIR", help="folder of the label maps, or of maps of a number")
    parser.add_argument("--out", metavar="TOML", help="card to write; never over another (default: card.toml)")


def main(given: dict[str, Any]) -> None:
    """Look, write the card, say what comes next."""
    from fgmae_bench.data.gather import store_in
    from fgmae_bench.prepare.card_folders import plan_of
    from fgmae_bench.prepare.card_store import plan_of_store
    from fgmae_bench.prepare.card_table import plan_of_table
    from fgmae_bench.prepare.inspect import refuse_file

    root, out = Path(given["folder"]), Path(given.get("out", "card.toml"))
    if os.path.lexists(out):
        raise BenchError(f"{out} is there already", "a card is never written over: remove it, or give another --out")
    refuse_file(root)
    if "labels" in given and "masks" in given:
        raise BenchError("--labels and --masks are two layouts", "give one of them")
    if "labels" not in given and "masks" not in given and store_in(root) is not None:
        plan = plan_of_store(root)
    elif "labels" in given:
        plan = plan_of_table(root, Path(given["labels"]))
    else:
        plan = plan_of(root, Path(given["masks"]) if "masks" in given else None)
    seen = look_at(plan)
    draft = Draft(plan=plan, signal=signal_of(seen), name=name_of(plan.root, given.get("labels", "")))
    text = draft.text(splits_of(draft))
    publish(out, text)
    card = load_card(str(out))
    _print(card, draft, out, given["folder"])


def name_of(root: Path, labels: str = "") -> str:
    """A card's name from a folder's, none of the suite's; of several tables of one folder each has its own."""
    place = root.resolve()
    place = place.parent if place.name.lower() in ("data", "images", "train") else place
    stem = Path(labels).stem.lower()
    name = place.name.lower().removesuffix(".zarr") + ("" if stem in PLAIN_TABLES else f"_{stem}")
    words = re.sub(r"[^a-z0-9]+", "_", name).strip("_") or "dataset"
    return f"own_{words}" if words in card_names() else words


def publish(out: Path, text: str) -> None:
    """Write a card that appears whole and never over another. Raises BenchError."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=out.parent, prefix=f".{out.name}.", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
            os.chmod(stream.name, 0o644)
            os.link(stream.name, out)  # fails where something is there
    except FileExistsError as error:
        raise BenchError(f"{out} is there already", "a card is never written over: give another --out") from error
    except OSError as error:
        raise os_error(error, out) from error


def _print(card: Card, draft: Draft, out: Path, data: str) -> None:
    plan = draft.plan
    of = f" in {len(card.classes)} classes" if card.classes else f", target {plan.target}"
    print(f"{out}: {card.task}, {len(plan.images)} images{of}, laid out as {card.layout}")
    for line in draft.signal.evidence:
        print(f"signal   {line}")
    for name in card.splits:
        usual = " (recommended)" if name == card.recommended_split else ""
        print(f"split    {name}: {card.splits[name].kind}{usual}")
    for line in plan.remarks.get("splits", []):
        print(f"split    {printable(line)}")
    for line in out.read_text(encoding="utf-8").splitlines():
        if ("GUESSED" in line or "EDIT" in line) and not line.startswith("# A draft"):
            print(f"look at  {line}")
    root = plan.root if plan.root.resolve() != Path(data).resolve() else Path(data)
    entry = ENTRIES.get(card.task, "linear")
    entry = "segment" if card.per_pixel else entry
    rest = " --freeze_backbone --recipe corrected" if entry == "segment" else " --features cached"
    if draft.train < 2 * USUAL_BATCH:
        rest += f" --batch_size {1 << max(0, (draft.train // 2).bit_length() - 1)}"
    written, data = quote(str(out)), quote(str(root))
    print(f"next: python -m fgmae_bench.prepare inspect {written} --data_path {data}")
    print(f"then: python -m fgmae_bench.{entry} --dataset {written} --data_path {data} --weights random{rest}")
