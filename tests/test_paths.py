"""Paths as people type them: `~` means the home folder wherever a flag or a file names one, and names are UTF-8."""

import os
import sys

import pytest
from commands import REPOSITORY, call, only_record, said, shared_world

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.compose import compose, read_config
from fgmae_bench.config.flags import module_parser
from fgmae_bench.config.run_ids import to_plain
from fgmae_bench.config.strict import plain_path
from fgmae_bench.errors import BenchError

SHORT = ("--dataset", "eurosat", "--model", "backscatter_stats", "--features", "cached", "--epochs", "1")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.mark.parametrize("form", ["--{0}=~/x", "--{0} ~/x"])
@pytest.mark.parametrize(
    "flag", ["data_path", "results_dir", "output_dir", "log_dir", "cache_dir", "weights", "resume"]
)
def test_every_path_flag_knows_the_home_folder(home, flag, form):
    words = form.format(flag).split()
    given = module_parser("linear", "").parse([*SHORT, *words])
    assert given[flag] == str(home / "x")


def test_a_config_file_knows_the_home_folder(home, tmp_path):
    (tmp_path / "c.toml").write_text('[execution]\ndata_path = "~/d"\nresults_dir = "~/r"\n')
    config = read_config(tmp_path / "c.toml", "linear")
    run = compose("linear", {"dataset": "eurosat"}, load_card("eurosat"), config)[0]
    assert (run.execution.data_path, run.execution.results_dir) == (str(home / "d"), str(home / "r"))


def test_a_run_leaves_no_folder_called_tilde(home, tmp_path):
    places = [f"--{name}=~/{name}" for name in ("results_dir", "output_dir", "log_dir", "cache_dir")]
    done = call("linear", *SHORT, "--batch_size", "16", "--data_path", shared_world(5), *places, cwd=tmp_path)
    assert done.code == 0, done.err
    assert only_record(home / "results_dir")["run_id"]
    assert not (tmp_path / "~").exists()
    tables = ("--results_dir=~/results_dir", "--out=~/out", "--experiments", REPOSITORY / "experiments" / "demo")
    assert call("report", *tables, cwd=tmp_path).code == 0
    assert (home / "out").is_dir()
    assert not (tmp_path / "~").exists()


def test_values_that_are_no_paths_stay_as_they_are():
    assert plain_path((0.1, "x~y", None, 3), "--x") == (0.1, "x~y", None, 3)


@pytest.mark.skipif(sys.getfilesystemencoding() != "utf-8", reason="file names are of another encoding")
def test_a_name_that_is_not_utf8_is_refused_before_any_work(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    line = said(call("linear", *SHORT, "--data_path", shared_world(5), "--results_dir", name, cwd=tmp_path))
    assert "--results_dir is caf\\udce9, which is not UTF-8" in line
    with pytest.raises(BenchError, match="not UTF-8"):
        compose("linear", {"dataset": "eurosat", "data_path": name}, load_card("eurosat"))


def test_an_image_whose_name_is_not_utf8_is_named(tmp_path):
    import shutil

    shutil.copytree(shared_world(5), tmp_path / "world")
    first = sorted((tmp_path / "world" / "River").glob("*.tif"))[0]
    first.rename(first.with_name(os.fsdecode(b"River_\xe9.tif")))
    line = said(call("linear", *SHORT, "--data_path", "world", cwd=tmp_path))
    assert "River_\\udce9.tif is not UTF-8; rename the file" in line


def test_a_record_names_nobodys_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    places = {"cache_dir": "/home/someone/.cache/x", "data_path": "/home/someone2/data", "device": "cpu"}
    run = compose("linear", {"dataset": "eurosat", "weights": "random", **places}, load_card("eurosat"))[0]
    execution = to_plain(run)["execution"]
    assert execution["cache_dir"] == "~/.cache/x"
    assert (execution["data_path"], execution["device"]) == ("/home/someone2/data", "cpu")
