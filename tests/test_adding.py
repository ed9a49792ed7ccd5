"""`docs/adding.md` is tried: its blocks are put where it says, in a copy of the repository, and its commands are run.

Everything that the page promises of an addition is looked for in what the commands say and leave. A step that is missing
from the page fails here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import preloaded
import pytest
from commands import REPOSITORY
from test_docs import commands, module_of, text_of

PAGE = REPOSITORY / "docs" / "adding.md"
STEP = re.compile(
    r"^`([^`\n]+)`, (a new file|at its end|above|below)(?: `([^`\n]+)`)?:\n\n```[^\n]+\n(.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
# Runs in the copy: each command of the page by its own entry, then what can be asked of the package alone.
DRIVER = """
import json
from pathlib import Path
from commands import call
done = []
for module, argv in json.load(open("commands.json")):
    module += ".__main__" if module in ("suite", "weights", "ablate") else ""
    result = call(module, *argv, cwd=Path.cwd())
    done.append([result.code, result.out, result.err])
    if result.code:
        break
json.dump(done, open("done.json", "w"))
if done[-1][0]:
    raise SystemExit
from fgmae_bench import api
from fgmae_bench.config.experiments import check_protocol
from fgmae_bench.errors import BenchError
from fgmae_bench.records import problem_of
from fgmae_bench.report.deltas import differences
from fgmae_bench.report.published import read_rows, to_published
try:
    check_protocol("segment", "frozen_linear", {"freeze_backbone": True, "head": "nearest"}, "here")
except BenchError as error:
    refused = str(error)
records = [json.loads(path.read_text()) for path in Path("results/records/my_chips").rglob("*.json")]
(record,) = (each for each in records if each["config"]["recipe"].get("lr") == 0.1)
record["dataset"]["synthetic"] = False
(row,) = (r for r in read_rows(Path("results/published/published_results.csv")) if r["table"] == "my_chips_linear")
delta, notes = differences((record,), to_published(row, "here"))
test = dict(record["metrics"]["test"])
record["metrics"]["test"]["balanced_error"] = 1.5
asked = dict(help=api.evaluate.__doc__, refused=refused, problem=problem_of(record), test=test, delta=delta)
asked["notes"] = [note.text for note in notes]
json.dump(asked, open("asked.json", "w"))
"""


@dataclass(frozen=True)
class Step:
    """A block of the page and where it goes: into `file`, as a whole, at its end, or above or below a line."""

    file: str
    where: str
    line: str
    text: str

    def apply(self, root: Path) -> None:
        """Put the block where the page says; the line is the only one that begins so."""
        path = root / self.file
        if self.where == "a new file":
            assert not path.exists(), self.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.text)
            return
        lines = path.read_text().splitlines(keepends=True)
        if self.where == "at its end":
            path.write_text("".join(lines) + ("\n\n" if path.suffix == ".py" else "") + self.text)
            return
        (at,) = (i for i, line in enumerate(lines) if line.startswith(self.line))
        if self.where == "below":
            lines.insert(at + 1, self.text)
        else:
            lines.insert(at, self.text + "\n\n")
        path.write_text("".join(lines))


def steps() -> list[Step]:
    return [Step(*found) for found in STEP.findall(text_of(PAGE))]


def copy_of_the_repository(root: Path, taken: list[Step]) -> Path:
    """What an addition touches of the repository, with these steps of the page taken; files keep their times, so that
    what was compiled of them stays good.
    """
    rubbish = shutil.ignore_patterns("__pycache__", "_cards", "data")
    shutil.copytree(REPOSITORY / "fgmae_bench", root / "fgmae_bench", ignore=shutil.ignore_patterns("_cards"))
    shutil.copytree(REPOSITORY / "datasets", root / "datasets", ignore=rubbish)
    shutil.copytree(REPOSITORY / "results" / "published", root / "results" / "published")
    shutil.copy(REPOSITORY / "pyproject.toml", root)
    for step in taken:
        step.apply(root)
    return root


@dataclass(frozen=True)
class Trial:
    """The page carried out in `root`: the package with its additions, and how each command ended."""

    root: Path
    listed: list[tuple[str, list[str]]]
    ended: list[list[Any]]

    def output(self, *words: str) -> list[str]:
        """What the commands that begin with these words said."""
        ran = zip(self.listed, self.ended, strict=True)
        return [out for (module, argv), (_, out, _) in ran if [module, *argv][: len(words)] == list(words)]

    def records(self, protocol: str) -> list[dict[str, Any]]:
        found = (self.root / "results" / "records").glob(f"*/{protocol}/*.json")
        return [json.loads(path.read_text()) for path in found]

    @cached_property
    def asked(self) -> dict[str, Any]:
        """What the package says of its additions: docstring of the Python API, refusals, difference from a number."""
        return dict(json.loads((self.root / "asked.json").read_text()))


def in_the_copy(root: Path, code: str) -> None:
    """Run code in a process whose package is the copy's."""
    environment = {key: value for key, value in os.environ.items() if key != "FGMAE_BENCH_CACHE"} | {
        "PYTHONPATH": os.pathsep.join([str(root), str(Path(__file__).parent)]),
        "HOME": str(root),
    }
    ran = preloaded.run(["-c", code], cwd=root, env=environment)
    assert ran.returncode == 0, ran.stderr


def carried_out(root: Path, taken: list[Step]) -> Trial:
    """The page with these steps, in a new copy of the repository. Fails where a command does."""
    copy_of_the_repository(root, taken)
    listed = [found for words in commands(text_of(PAGE), "added") if (found := module_of(words))]
    (root / "commands.json").write_text(json.dumps(listed))
    in_the_copy(root, DRIVER)
    ended = json.loads((root / "done.json").read_text())
    for (module, argv), (code, out, err) in zip(listed, ended, strict=False):
        assert code == 0, f"{module} {' '.join(argv)}\n{out}{err}"
    return Trial(root, listed, ended)


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    return carried_out(tmp_path_factory.mktemp("adding") / "copy", steps())


def test_every_block_of_the_page_says_where_it_goes() -> None:
    fences = re.findall(r"^```(\S+)", text_of(PAGE), re.MULTILINE)
    assert len(steps()) == sum(language != "sh" for language in fences) >= 19


@pytest.mark.slow
def test_a_world_and_its_card_agree(trial: Trial) -> None:
    (written,) = trial.output("prepare", "synth", "my_chips")
    assert written.startswith("120 synthetic images (no real data) written to datasets/my_chips/data")
    (seen,) = trial.output("prepare", "inspect")
    assert "verdict  agrees with the card my_chips" in seen
    assert "counts   as stated" in seen


@pytest.mark.slow
def test_a_head_an_optimiser_and_a_schedule_are_choices_and_recorded(trial: Trial) -> None:
    (shown,) = (" ".join(text.split()) for text in trial.output("segment", "--help"))
    assert "--head {nearest,upernet,linear," in shown
    assert "nearest values of a linear layer, UPerNet, a per-pixel" in shown
    assert "--optimizer {plain_sgd,sgd,adamw}" in shown
    assert "--schedule {constant,cosine,poly}" in shown
    (record,) = trial.records("frozen_nearest")
    recipe = record["config"]["recipe"]
    assert (recipe["head"], recipe["optimizer"], recipe["schedule"]) == ("nearest", "plain_sgd", "constant")
    assert {entry["lr"] for entry in record["history"]} == {0.1}
    assert record["model"]["name"] == "my_vit"


@pytest.mark.slow
def test_a_head_is_a_protocol_of_plans_and_of_the_python_api(trial: Trial) -> None:
    assert "`frozen_nearest`" in trial.asked["help"]
    assert "protocol is frozen_linear, its flags give frozen_nearest" in trial.asked["refused"]


@pytest.mark.slow
def test_a_metric_is_in_records_intervals_schema_and_differences(trial: Trial) -> None:
    (segmented,) = trial.records("frozen_nearest")
    assert segmented["metrics"]["test"]["balanced_error"] == 1 - segmented["metrics"]["test"]["aa"]
    assert "balanced_error" in segmented["metrics"]["intervals"]["test"]
    found = trial.records("linear_probe")
    assert len(found) == 2
    for record in found:
        test, intervals = record["metrics"]["test"], record["metrics"]["intervals"]["test"]
        assert test["balanced_error"] == 1 - test["aa"]
        low, high = intervals["balanced_error"]
        assert [1 - high, 1 - low] == pytest.approx(intervals["aa"], abs=1e-12)
    asked = trial.asked
    assert asked["problem"].startswith("metrics/test/balanced_error: 1.5 is greater than the maximum of 1")
    assert asked["delta"] == {"oa": asked["test"]["oa"] - 0.9, "balanced_error": asked["test"]["balanced_error"] - 0.1}
    assert asked["notes"] == []


@pytest.mark.slow
def test_a_backbone_a_normaliser_and_the_recipe_of_a_card_are_recorded(trial: Trial) -> None:
    for record in trial.records("linear_probe"):
        assert record["model"]["name"] == "my_net:make"
        assert record["config"]["model"]["normalizer"] == "wide"
        assert record["config"]["recipe"]["epochs"] == len(record["history"]) == 20
        assert record["dataset"]["name"] == "my_chips"
        assert record["dataset"]["synthetic"]


@pytest.mark.slow
def test_a_table_is_planned_and_filled(trial: Trial) -> None:
    before, after = trial.output("suite", "plan")
    assert before.endswith("2 runs in 1 commands: 0 recorded, 2 to do\n")
    assert after.endswith("2 runs in 1 commands: 2 recorded, 0 to do\n")
    (printed,) = trial.output("report", "--print")
    runs = printed[printed.index("| dataset |") :] if "| dataset |" in printed else printed
    columns, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in runs.splitlines() if line[:1] == "|"
    ]
    published, *measured = [dict(zip(columns, row, strict=True)) for row in rows]
    assert (published["published_oa"], published["delta_balanced_error"]) == ("0.900", "–")
    found = sorted(trial.records("linear_probe"), key=lambda record: record["config"]["recipe"]["lr"])
    for cells, record in zip(measured, found, strict=True):
        low, high = record["metrics"]["intervals"]["test"]["balanced_error"]
        assert cells["normalizer"] == "wide"
        assert cells["balanced_error"] == f"{record['metrics']['test']['balanced_error']:.3f}"
        assert cells["balanced_error_interval"] == f"{low:.3f} to {high:.3f}"


@pytest.mark.slow
def test_metric_and_column_have_their_words_on_page_and_figures(trial: Trial) -> None:
    page = (trial.root / "results" / "index.html").read_text()
    assert '"balanced_error":["BER","1 - AA",true]' in page
    assert '"balanced_error_interval":["BER 95 %","Interval of the test samples' in page
    assert '"balanced_error":"BER (fraction)"' in page
    assert '"normalizer":["normaliser","What the input went through"' in page
    assert "BER (fraction)" in (trial.root / "results" / "figures" / "my_chips-balanced_error.svg").read_text()


@pytest.mark.slow
def test_code_of_the_page_is_as_clean_as_the_package(trial: Trial) -> None:
    touched = sorted({step.file for step in steps() if step.file.startswith("fgmae_bench/")})
    for words in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *words, "--no-cache", *touched]
        done = subprocess.run(command, cwd=trial.root, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
