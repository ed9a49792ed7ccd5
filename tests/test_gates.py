"""Gates of reproductions, and published numbers without a source."""

from __future__ import annotations

import sys

import pytest
from commands import REPOSITORY
from make_records import make_record, store_all

from fgmae_bench.config.experiments import load_experiment
from fgmae_bench.errors import BenchError
from fgmae_bench.report import __main__ as report
from fgmae_bench.report import published
from fgmae_bench.report.table import build

ROWS = published.read_rows(REPOSITORY / "results/published/published_results.csv")
FILE = """title = "T"
module = "linear"
protocol = "linear_probe"
[common]
dataset = "eurosat"
split = "reference"
[layout]
columns = ["dataset", "run", "oa", "gate"]
[[runs]]
label = "vit"
nproc_per_node = 2
flags = {{ model = "vit_small_patch16", batch_size = 16 }}
[[runs.published]]
table = "eurosat_linear"
where = {{ source = "notes", batch_per_process = 16, world_size = 2, epochs = 50 }}
[[runs.gates]]
{gate}
"""


def experiment(tmp_path, gate):
    path = tmp_path / "t.toml"
    path.write_text(FILE.format(gate=gate))
    return load_experiment(path)


def verdicts(tmp_path, gate, *records):
    made = experiment(tmp_path, gate)
    return [verdict for row in build(made, list(records), published.for_runs(made, ROWS)).rows for verdict in row.gates]


@pytest.mark.parametrize(("oa", "passed"), [(0.795, True), (0.805, True), (0.785, True), (0.8051, False), (0.7, False)])
def test_a_gate_is_the_published_number_within_its_tolerance(tmp_path, oa, passed):
    (found,) = verdicts(tmp_path, 'metric = "oa"\ntolerance = 0.01', make_record(test={"oa": oa}))
    assert (found.expected, found.passed, found.source) == (0.795, passed, "notes")
    assert found.words.startswith("passed: oa" if passed else "missed: oa")


def test_a_gate_holds_the_mean_over_seeds_and_reads_legacy_values_where_it_says_so(tmp_path):
    seeds = [make_record(seed=s, test={"oa": 0.78 + s / 100}, legacy={"aa": 0.644}) for s in range(3)]
    (found,) = verdicts(tmp_path, 'metric = "oa"\ntolerance = 0.01', *seeds)
    assert found.measured == pytest.approx(0.79)
    (found,) = verdicts(tmp_path, 'metric = "aa"\ntolerance = 0.001\nlegacy = true', *seeds)
    assert found.passed
    (found,) = verdicts(tmp_path, 'metric = "aa"\ntolerance = 0.001\nlegacy = true', make_record())
    assert found.passed is None


def test_synthetic_runs_pass_no_gate(tmp_path):
    found = verdicts(tmp_path, 'metric = "oa"\ntolerance = 0.01', make_record(synthetic=True, test={"oa": 0.795}))
    assert [verdict.passed for verdict in found] == [None]


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        ('metric = "ao"\ntolerance = 0.01', "unknown metric 'ao'"),
        ('metric = "oa"\ntolerance = 0.0', "tolerance is 0.0"),
        ('metric = "oa"\ntolerance = inf', "tolerance is inf"),
        ('metric = "miou"\ntolerance = 0.1', "which no published row of the run has"),
        ('metric = "oa"\ntolerance = 0.01\nwithin = 1', "unknown key 'within'"),
    ],
    ids=["metric", "zero", "infinite", "no number", "key"],
)
def test_a_gate_that_can_say_nothing_is_refused(tmp_path, gate, message):
    with pytest.raises(BenchError, match=message):
        verdicts(tmp_path, gate, make_record())


@pytest.mark.usefixtures("no_pictures")
def test_the_report_lists_gates_and_fails_where_one_is_missed(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "experiments"
    folder.mkdir()
    experiment(folder, 'metric = "oa"\ntolerance = 0.01')
    for oa, code in ((0.795, 0), (0.7, 1)):
        results = tmp_path / str(oa)
        store_all([make_record(test={"oa": oa})], results)
        flags = ["--results_dir", results, "--experiments", folder, "--gates", "--formats", "md"]
        monkeypatch.setattr(sys, "argv", ["report", *map(str, flags)])
        assert report.main() == code
        assert f"t: vit: {'missed' if code else 'passed'}: oa" in capsys.readouterr().out
        assert f"| {'missed' if code else 'passed'} |" in (results / "tables/README.md").read_text()


def test_every_shipped_gate_has_its_number():
    held = 0
    for path in sorted((REPOSITORY / "experiments").glob("reproduce_*.toml")):
        made = load_experiment(path)
        held += sum(len(row.gates) for row in build(made, [], published.for_runs(made, ROWS)).rows)
    assert held >= 17


def test_a_published_row_without_a_source_is_refused(tmp_path):
    text = (REPOSITORY / "results/published/published_results.csv").read_text()
    path = tmp_path / "published.csv"
    path.write_text(text.replace("eurosat_linear,notes,", "eurosat_linear, ,", 1))
    with pytest.raises(BenchError, match=r"row 3 has no source"):
        published.read_rows(path)
