"""How many top-level places of the package a run or a report enters: a reader follows one through few rooms."""

import json
import os
import shlex
import sys

import preloaded
import pytest
from commands import FOLDERS, REPOSITORY, shared_world
from make_records import make_record, store_all
from places import entered
from segment_world import FROZEN

from fgmae_bench.report import __main__ as report

pytest_plugins = ("segment_world",)

RUN, REPORT = 16, 7  # places at most
# A run as `python -m` begins it: nothing of the package has been imported.
TRACED = """
import json, runpy, sys
sys.path.insert(0, sys.argv.pop(1))
from places import entered
sys.argv = sys.argv[1:]
code = None
with entered() as found:
    try:
        runpy.run_module(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        code = end.code
print(json.dumps({"code": code} | {name: sorted(places) for name, places in found.items()}))
"""


@pytest.mark.parametrize("entry", ["linear", "segment"])
def test_a_run_enters_few_top_level_places(entry, tmp_path, request):
    if entry == "linear":
        more = shlex.split("--model test_vit --weights random --features cached --epochs 1 --batch_size 16")
        flags = ["--dataset", "eurosat", "--data_path", shared_world(5), *more]
    else:
        flags = ["--dataset", "dfc2020", "--data_path", request.getfixturevalue("tiles"), *FROZEN, "--panels", "2"]
    words = ["-c", TRACED, REPOSITORY / "tests", f"fgmae_bench.{entry}", *flags, *FOLDERS]
    done = preloaded.run(words, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(REPOSITORY)})
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["code"] == 0, done.stderr
    # what every run enters, so that a tracer that sees nothing does not pass
    assert {f"{entry}.py", "command.py", "config", "data", "features", "models", "runs", "views"} <= set(found["all"])
    assert len(found["main"]) <= RUN, found["main"]
    assert len(found["all"]) <= RUN, found["all"]


@pytest.mark.usefixtures("no_pictures")
def test_a_report_enters_few_top_level_places(tmp_path, monkeypatch):
    store_all([make_record(seed=seed) for seed in (1, 2)], tmp_path)
    flags = ["--results_dir", tmp_path, "--experiments", REPOSITORY / "experiments", "--formats", "md", "csv"]
    monkeypatch.setattr(sys, "argv", ["report", *map(str, flags)])
    with entered() as found:
        assert report.main() == 0
    assert {"report", "records.py"} <= found["all"]
    assert len(found["all"]) <= REPORT, sorted(found["all"])
