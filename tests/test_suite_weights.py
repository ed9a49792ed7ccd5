"""What a suite says of runs whose model has changed since: a file that was replaced at its path, a factory's code."""

import contextlib
import importlib
import os
import shutil
import sys

import pytest
import timm
import torch
from commands import FOLDERS, MAIN, call, shared_world
from suite_world import experiment, suite

from fgmae_bench.checkpoints.registry import files_of
from fgmae_bench.config.experiments import load_experiment
from fgmae_bench.suite.expand import expand
from fgmae_bench.suite.ledger import Ledgers
from fgmae_bench.system.stamps import stamp_of

MAIN.setdefault("suite", "fgmae_bench.suite.__main__")
FACTORY = """
import torch
from torch import nn

def make():
    torch.manual_seed({seed:5d})
    return nn.Sequential(nn.Conv2d(2, 4, 8, 8), nn.GELU())
"""


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A factory's file that the suite and its runs find."""
    monkeypatch.syspath_prepend(tmp_path)
    name = f"own_{tmp_path.name.replace('-', '_')}"

    def write(seed):
        path = tmp_path / f"{name}.py"
        path.write_text(FACTORY.format(seed=seed))
        os.utime(path, (seed, seed))  # Python takes compiled code for that of a file of equal size and second

    write(1)
    return name, write


def counts(folder, path):
    """(recorded, to do) of the one run of an experiment."""
    with contextlib.chdir(folder):
        (command,) = expand([load_experiment(path)])
        left = len(Ledgers([command]).of(command).pending(command))
    return 1 - left, left


def replace_keeping_times(path, other):
    """Another file of the same size under the same name, with the times of the first."""
    status = os.stat(path)
    assert os.path.getsize(other) == status.st_size
    shutil.copyfile(other, path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def by_hand(folder, *flags):
    """The run of the experiment, in this process; returns its id."""
    words = ("--dataset", "eurosat", "--split", "reference", "--data_path", shared_world(), "--features", "cached")
    more = ("--device", "cpu", "--epochs", "2", "--batch_size", "16", "--input_size", "32", "--normalizer", "fgmae")
    done = call("linear", *words, *more, *flags, *FOLDERS, cwd=folder)
    assert done.code == 0, done.err
    return done.out.split()[0]


def received(folder, path, run_id):
    """Write the receipt of a run as the suite does that started it."""
    with contextlib.chdir(folder):
        (command,) = expand([load_experiment(path)])
        assert Ledgers([command]).of(command).receive(command, [run_id]) == []


def test_weights_that_are_replaced_at_their_path_are_another_run(tmp_path):
    for seed in (1, 2):
        torch.manual_seed(seed)
        made = timm.create_model("test_vit", in_chans=2, num_classes=0, img_size=32)
        torch.save(made.state_dict(), tmp_path / f"w{seed}.pth")
    mine = tmp_path / "mine.pth"
    shutil.copyfile(tmp_path / "w1.pth", mine)
    path = experiment(tmp_path, 'model = "test_vit", weights = "mine.pth", input_size = 32, normalizer = "fgmae"')
    path.write_text(path.read_text().replace('weights = "random"\n', ""))
    assert counts(tmp_path, path) == (0, 1)
    run_id = by_hand(tmp_path, "--model", "test_vit", "--weights", "mine.pth")
    for receipt in (False, True):  # by what the run remembers, then by what the suite keeps as well
        if receipt:
            received(tmp_path, path, run_id)
        assert counts(tmp_path, path) == (1, 0)
        replace_keeping_times(mine, tmp_path / "w2.pth")
        assert counts(tmp_path, path) == (0, 1)
        replace_keeping_times(mine, tmp_path / "w1.pth")
        assert counts(tmp_path, path) == (0, 1)  # written again: the run reads it, and finds its record
        assert by_hand(tmp_path, "--model", "test_vit", "--weights", "mine.pth") == run_id
    replace_keeping_times(mine, tmp_path / "w2.pth")  # while the run went on: the receipt is of what was read
    received_other = by_hand(tmp_path, "--model", "test_vit", "--weights", "mine.pth")
    assert received_other != run_id
    mine.unlink()
    answer = suite("plan", path, cwd=tmp_path).out
    assert "weights unknown: they are not here" in answer
    assert "1 recorded, 0 to do" in answer


def test_a_receipt_of_a_run_during_which_its_weights_were_replaced_does_not_vouch_for_the_new_ones(tmp_path):
    torch.manual_seed(1)
    mine = tmp_path / "mine.pth"
    torch.save(timm.create_model("test_vit", in_chans=2, num_classes=0, img_size=32).state_dict(), mine)
    path = experiment(tmp_path, 'model = "test_vit", weights = "mine.pth", input_size = 32, normalizer = "fgmae"')
    path.write_text(path.read_text().replace('weights = "random"\n', ""))
    run_id = by_hand(tmp_path, "--model", "test_vit", "--weights", "mine.pth")
    torch.save(timm.create_model("test_vit", in_chans=2, num_classes=0, img_size=32).state_dict(), mine)
    with contextlib.chdir(tmp_path):
        (command,) = expand([load_experiment(path)])
        assert len(Ledgers([command]).of(command).receive(command, [run_id])) == 1
    assert counts(tmp_path, path) == (0, 1)


def test_changed_code_of_a_factory_is_another_run(tmp_path, code):
    name, write = code
    path = experiment(tmp_path, f'model = "{name}:make", input_size = 32, normalizer = "fgmae"')
    path.write_text(path.read_text().replace('weights = "random"\n', ""))
    first = by_hand(tmp_path, "--model", f"{name}:make")
    assert counts(tmp_path, path) == (1, 0)
    write(2)
    assert counts(tmp_path, path) == (0, 1)
    sys.modules.pop(name)
    importlib.invalidate_caches()
    assert by_hand(tmp_path, "--model", f"{name}:make") != first
    assert counts(tmp_path, path) == (1, 0)


def test_changed_code_that_a_factory_imports_is_another_run(tmp_path, code):
    name, _ = code
    (tmp_path / f"{name}.py").write_text(f"import torch\nfrom {name}_parts.deep import make\n")
    parts = tmp_path / f"{name}_parts"
    parts.mkdir()
    (parts / "deep.py").write_text(f"def make():\n    import {name}_more as more\n    return more.made()\n")
    more = tmp_path / f"{name}_more.py"
    more.write_text("from torch import nn\nmade = lambda: nn.Identity()\n")
    before = files_of(f"{name}:make", "module", tmp_path)
    assert before == (tmp_path / f"{name}.py", more, parts)
    stamp = stamp_of(before)
    replaced = more.stat()
    more.write_text("from torch import nn\nmade = lambda: nn.Sequentia()\n")
    os.utime(more, ns=(replaced.st_atime_ns, replaced.st_mtime_ns))
    assert stamp_of(files_of(f"{name}:make", "module", tmp_path)) != stamp
    (parts / "deep.py").write_text("no Python (")
    assert files_of(f"{name}:make", "module", tmp_path) == (tmp_path / f"{name}.py", parts)
    assert len(files_of("torch.nn:Identity", "module", tmp_path)) == 1  # what is installed is not looked into


def test_what_a_model_comes_from_is_found_without_opening_it(tmp_path, code):
    name, _ = code
    assert files_of(f"{name}:make", "module", tmp_path) == (tmp_path / f"{name}.py",)
    assert files_of("vit_small_patch16", "random", tmp_path) == ()
    (named,) = files_of("vit_small_patch16", "fgmae", tmp_path)
    assert named.is_relative_to(tmp_path / "weights")
    assert files_of("vit_small_patch16", "a/b.pth", tmp_path)[0].name == "b.pth"
    for shard in ("a-1.safetensors", "a-2.safetensors"):
        (tmp_path / shard).touch()
    index = tmp_path / "a.safetensors.index.json"
    assert len(files_of("vit_small_patch16", str(index), tmp_path)) == 3
    assert files_of("no_such_package:make", "module", tmp_path) == ()
