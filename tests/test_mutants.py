"""The list of mutants fits the source, and the script tells what is noticed from what is not."""

import importlib.util
import sys
from pathlib import Path

import preloaded
import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "experiments/robustness/mutants.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("mutants", SCRIPT)
    module = sys.modules["mutants"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["mutants"]


def test_every_snippet_stands_once_where_it_is_said_to_and_mutates_to_python(script):
    mutants = script.read_mutants()
    assert {mutant.name: place for mutant in mutants if isinstance(place := script.find(mutant), str)} == {}
    assert len({mutant.name for mutant in mutants}) == len(mutants) >= 110


def write_list(path, *mutants, tests=("test_sliding.py",)):
    lines = [f"  ['{old}', '{new}']," for old, new in mutants]
    path.write_text(
        "\n".join(["[[room]]", 'place = "models/sliding.py"', f"tests = {list(tests)}", "mutants = [", *lines, "]"])
    )
    return ["--list", str(path), "--jobs", "1"]


@pytest.mark.parametrize(
    ("old", "new", "tests", "reason"),
    [
        ("no such text", "", ("test_sliding.py",), "stands there 0 times"),
        ("window", "", ("test_sliding.py",), "times"),
        ("return (total / visits)", "return (", ("test_sliding.py",), "is not Python"),
        ("return (total / visits)", "return total", ("test_gone.py",), "tests/test_gone.py is absent"),
    ],
)
def test_a_stale_mutant_is_named_and_nothing_runs(script, old, new, tests, reason, tmp_path, capsys):
    assert script.main(write_list(tmp_path / "list.toml", (old, new), tests=tests)) == 2
    out = capsys.readouterr().out
    assert out.startswith("stale: models/sliding.py")
    assert reason in out


@pytest.mark.slow
def test_a_change_that_tests_notice_is_killed_and_one_that_they_do_not_survives(tmp_path):
    kept = tmp_path / "kept.json"
    changes = [("return (total / visits)", "return total"), ("return (total / visits)", "return (1 * total / visits)")]
    command = [SCRIPT, *write_list(tmp_path / "list.toml", *changes), "--kept", str(kept)]
    first = preloaded.run(command)
    assert first.returncode == 1, first.stderr
    assert "1 of 2 that change a result are killed: 50.0% (wanted 95%)" in first.stdout
    assert "survived: models/sliding.py: return (total / visits) -> return (1 * total / visits)" in first.stdout
    again = preloaded.run(command)
    assert again.stdout == first.stdout[first.stdout.index("survived: ") :]  # nothing runs twice
