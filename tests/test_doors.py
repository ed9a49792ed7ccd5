"""What can be run and what packages add is listed; what cannot run is refused before anything starts."""

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import EUROSAT_CARD, REPOSITORY, call, shared_world
from make_records import make_record, store_all
from suite_world import suite

import fgmae_bench.__main__ as door
from fgmae_bench.config import encoders as encoder_table
from fgmae_bench.config import plugins
from fgmae_bench.config.cards import load_card
from fgmae_bench.config.experiments import load_experiment, matches
from fgmae_bench.config.run import Model
from fgmae_bench.data import layouts
from fgmae_bench.errors import BenchError
from fgmae_bench.models import heads
from fgmae_bench.models.encoders import dofa_v2, mit, saratr_x
from fgmae_bench.models.unet import UNet
from fgmae_bench.suite import obstacles
from fgmae_bench.suite.flags import commands_of
from fgmae_bench.suite.slurm import Cluster, asked_of_slurm, sbatch_lines

EXPERIMENT = """title = "A"
module = "{module}"
protocol = "{protocol}"
[common]
dataset = "{dataset}"
weights = "random"
{common}
[layout]
columns = ["run", "oa"]
[[runs]]
label = "mine"
{flags}
"""


def written(folder, flags="", dataset="eurosat", module="linear", protocol="linear_probe", common="", name="mine"):
    path = folder / f"{name}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = EXPERIMENT.format(module=module, protocol=protocol, dataset=dataset, common=common, flags=flags)
    path.write_text(text)
    return path


def test_every_module_that_runs_is_listed_with_its_line():
    done = call("__main__", cwd=REPOSITORY)
    assert done.code == 0
    for name in (
        "ablate",
        "board",
        "features",
        "finetune",
        "linear",
        "prepare",
        "report",
        "segment",
        "stress",
        "suite",
        "weights",
    ):
        (line,) = [line for line in done.out.splitlines() if line.startswith(f"  {name} ")]
        assert line.rstrip().endswith(".")
    for group in ("fgmae_bench.datasets", "fgmae_bench.encoders", "fgmae_bench.heads"):
        assert f"{group}: " in done.out
    assert call("__main__", "--nothing", cwd=REPOSITORY).code == 2


def test_layouts_of_the_list_are_those_of_the_table():
    assert sorted(layouts.LAYOUTS) == sorted(door.SHIPPED_LAYOUTS)
    assert door.DATASETS_GROUP == layouts.GROUP


def points(monkeypatch, module, *made):
    """Let a module find these (name, value) as the entry points of any group."""
    found = [EntryPoint(name=name, value=value, group="any") for name, value in made]
    where = module if hasattr(module, "entry_points") else module.importlib.metadata
    monkeypatch.setattr(where, "entry_points", lambda group: found)


def test_a_known_name_is_marked_in_the_list(monkeypatch):
    points(monkeypatch, door, ("table", "strange:read"), ("mine", "strange:read"))
    lines = list(door.added("fgmae_bench.datasets", door.SHIPPED_LAYOUTS))
    assert "refused" not in lines[0]
    assert "(refused: the suite has one of that name)" in lines[1]


@pytest.mark.parametrize("damaged", [b"[fgmae_bench.heads]\nno value\n", b"[fgmae_bench.heads]\nx = \xff\n", None])
def test_a_package_whose_own_list_is_damaged_is_named_and_left_out(monkeypatch, tmp_path, caplog, damaged):
    for name, text in (("broken", damaged), ("whole", b"[fgmae_bench.heads]\nmine = package:Head\n")):
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        if text is None:
            (folder / "entry_points.txt").mkdir()
        else:
            (folder / "entry_points.txt").write_bytes(text)
    monkeypatch.setattr(importlib.metadata, "entry_points", importlib.metadata.entry_points.__wrapped__)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    plugins._name_damaged.cache_clear()
    assert [point.value for point in plugins.entry_points("fgmae_bench.heads")] == ["package:Head"]
    named = [line for line in caplog.messages if "its entry points cannot be read" in line]
    assert all("broken-1.0.dist-info" in line and "\n" not in line for line in named)
    assert len(named) == (damaged is not None)


def test_a_package_without_readable_metadata_is_listed(monkeypatch, tmp_path):
    folder = tmp_path / "broken-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_bytes(b"Name: \xff\n")
    (folder / "entry_points.txt").write_text("[any]\nmine = package:Head\n")
    (found,) = importlib.metadata.PathDistribution(folder).entry_points
    monkeypatch.setattr(door, "entry_points", lambda group: [found])
    assert list(door.added("any", ())) == [f"  {'mine':<20} a package with damaged metadata, package:Head"]


def test_an_entry_point_that_raises_or_has_a_known_name_is_one_line(monkeypatch, tmp_path):
    (tmp_path / "raising.py").write_text("raise ImportError('half\\ninstalled')\n")
    (tmp_path / "breaking.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    for value, words in (("raising:x", "half"), ("breaking:x", "division by zero"), ("json:nothing", "nothing")):
        points(monkeypatch, encoder_table, ("mine", value))
        encoder_table.encoders.cache_clear()
        with pytest.raises(BenchError, match=words):
            encoder_table.encoders()
        card = tmp_path / "card.toml"
        card.write_text(EUROSAT_CARD.read_text().replace('"eurosat"', '"mine"', 1).replace('"class_folders"', '"own"'))
        points(monkeypatch, layouts, ("own", value))
        with pytest.raises(BenchError, match=words):
            layouts.build_index(load_card(str(card)), shared_world(5))
        monkeypatch.setitem(heads.HEADS, "own", heads.HEADS["linear"]._replace(code=value))
        with pytest.raises(BenchError, match=words):
            heads.make_head("own", (8,), (8,), 2)
    points(monkeypatch, encoder_table, ("galileo-nano", "json:loads"))
    encoder_table.encoders.cache_clear()
    with pytest.raises(BenchError, match="galileo-nano"):
        encoder_table.encoders()
    points(monkeypatch, heads, ("linear", "json:loads"))
    with pytest.raises(BenchError, match="the head linear is defined twice"):
        heads.make_head("linear", (8,), (8,), 2)
    points(monkeypatch, layouts, ("class_folders", "json:loads"))
    with pytest.raises(BenchError, match="the layout class_folders is defined twice"):
        layouts.build_index(load_card("eurosat"), shared_world(5))
    monkeypatch.undo()
    encoder_table.encoders.cache_clear()


REFUSED = {
    "input size of a named model": ('flags = { model = "vit_small_patch16", input_size = 100 }', "input_size: 100 is not divisible by the patch of 16 px"),
    "input size of an encoder": ('flags = { model = "galileo-nano", input_size = 66 }', "not divisible by the patch of 4 px"),
    "patch of an encoder": ('flags = { model = "galileo-nano", patch_size = 9 }', "does not take patches of 9 px; choose from 1, 2"),
    "input size of statistics": ('flags = { model = "backscatter_stats", input_size = 32 }', "backscatter_stats takes images as they are; leave it out"),
    "other size than the one": ('flags = { model = "saratr-x-hivit-b", input_size = 256 }', "saratr-x-hivit-b takes 224 px, not 256; give input_size = 224"),
    "size of the data": ('flags = { model = "dofa-v2-base", input_size = "native" }', "dofa-v2-base takes 224 px, not 64; give input_size = 224"),
    "too many patches": ('flags = { model = "anysat", input_size = 136 }', "136 px in patches of 4 px are more than 1024 patches, the most of anysat"),
    "extra that is missing": ('flags = { model = "presto" }', "presto needs rslearn, which is not installed; install it with: pip install 'fgmae-bench[rslearn]'"),
    "tracker that is missing": ('flags = { model = "backscatter_stats", tracker = "trackio" }', "tracker: the package of trackio is not installed"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("command", ["plan", "run"])
def test_what_cannot_run_is_refused_before_anything_starts(what, command, tmp_path, monkeypatch):
    missing = {"extra that is missing": "rslearn", "tracker that is missing": "trackio"}.get(what)
    real = obstacles.find_spec
    monkeypatch.setattr(obstacles, "find_spec", lambda name: None if name == missing else real(name))
    flags, words = REFUSED[what]
    path = written(tmp_path, flags)
    done = call("suite.__main__", command, path, cwd=tmp_path)
    assert (done.code, done.out) == (2, ""), done
    assert words in done.err
    assert "runs[0]" in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ('model = "saratr-x-hivit-b"', "saratr-x-hivit-b takes 224 px, not 256; give input_size = 224"),
        ('model = "dofa-v2-large"', "dofa-v2-large takes 224 px, not 252; give input_size = 224"),
        ('model = "anysat"', "256 px in patches of 4 px are more than 1024 patches"),
        ('model = "saratr-x-hivit-b", input_size = 224', ""),
        ('model = "anysat", patch_size = 8', ""),
        ('model = "galileo-nano"', ""),
    ],
)
def test_maps_are_looked_at_at_the_size_of_their_data(flags, words, tmp_path):
    flags = f'flags = {{ {flags}, head = "upernet", freeze_backbone = true, recipe = "corrected", epochs = 1, batch_size = 4 }}'
    path = written(tmp_path, flags, dataset="dfc2020", module="segment", protocol="frozen_upernet")
    done = call("suite.__main__", "plan", path, cwd=tmp_path)
    assert (done.code == 0) == (not words), done.err
    assert words in done.err


def test_sizes_that_are_stated_are_those_of_the_networks():
    assert {"unet": UNet.patch, **dict.fromkeys(mit.NAMES, mit.MixTransformer.reductions[-1])} == obstacles.STRIDES
    held = encoder_table.ENCODERS
    assert held["saratr-x-hivit-b"].only_size == saratr_x.SIZE
    assert held["dofa-v2-base"].only_size == held["dofa-v2-large"].only_size == dofa_v2.SIZE
    spec = importlib.util.find_spec("open_clip")  # its import takes seconds
    for entry in (entry for entry in held.values() if spec and entry.weights == "open-clip"):
        config = Path(spec.origin).parent / "model_configs" / f"{entry.variant}.json"
        assert json.loads(config.read_text())["vision_cfg"]["image_size"] == entry.only_size


@pytest.mark.parametrize(("model", "size", "side"), [("unet", 100, 16), ("mit_b0", 80, 32), ("unet", 96, 0)])
def test_models_without_a_patch_in_their_name_have_one(model, size, side):
    run = SimpleNamespace(model=Model(model=model, input_size=size))
    words = f"{size} is not divisible by the patch of {side} px of {model}"
    assert (obstacles._size(run, None) or ("", ""))[1] == (words if side else "")


def test_sizes_that_fit_are_planned(tmp_path):
    for number, flags in enumerate(
        (
            '{ model = "vit_small_patch16", input_size = 96 }',
            '{ model = "galileo-nano", input_size = 66, patch_size = 6 }',
            '{ model = "backscatter_stats" }',
            '{ model = "vit_base_patch14_dinov2", input_size = 98 }',
            '{ model = "saratr-x-hivit-b", input_size = 224 }',
            '{ model = "anysat", input_size = 128 }',
        )
    ):
        done = call("suite.__main__", "plan", written(tmp_path, f"flags = {flags}", name=f"f{number}"), cwd=tmp_path)
        assert done.code == 0, done.err


def test_a_module_is_known_of_every_extra_of_the_encoders():
    extras = {entry.extra for entry in encoder_table.ENCODERS.values() if entry.extra}
    assert extras <= set(obstacles.MODULES)


def test_a_card_that_does_not_load_is_refused_by_plan(tmp_path):
    (tmp_path / "broken.toml").write_text('name = "broken"\n')
    done = call("suite.__main__", "plan", written(tmp_path, dataset="broken.toml"), cwd=tmp_path)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "broken.toml" in done.err


def own_card(folder, name="mine"):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "card.toml"
    path.write_text(EUROSAT_CARD.read_text().replace('name = "eurosat"', f'name = "{name}"', 1))
    return path


def test_a_card_in_a_file_is_found_beside_the_file_and_fills_its_row_from_anywhere(tmp_path, monkeypatch):
    card = own_card(tmp_path / "there" / "cards")
    path = written(tmp_path / "there", 'flags = { model = "backscatter_stats" }', dataset="cards/card.toml")
    for cwd in (tmp_path, tmp_path / "there", tmp_path / "there" / "cards"):
        monkeypatch.chdir(cwd)
        experiment = load_experiment(path)
        assert load_card(experiment.common["dataset"]).name == "mine"
        assert not os.path.isabs(experiment.common["dataset"])
    (command,) = commands_of({"files": [path]})
    assert command.points[0].run.data.dataset == "card.toml"
    record = make_record(dataset="mine", model="backscatter_stats", world_size=1)
    record["config"]["data"]["dataset"] = "/elsewhere/card.toml"
    record["model"]["weights"]["source"] = "none"
    record["config"]["recipe"] |= {"recipe": "published", "batch_size": 256}
    from fgmae_bench.config.cards import facts_sha256

    for facts, wanted in ((facts_sha256(load_card(str(card))), True), ("0" * 64, False)):
        record["dataset"]["card_sha256"] = facts
        assert matches(experiment, experiment.runs[0], record) is wanted
    monkeypatch.chdir(tmp_path)  # a path that is only right from the working directory still is
    own_card(tmp_path / "here")
    assert load_experiment(written(tmp_path / "there", dataset="here/card.toml")).common["dataset"] == "here/card.toml"


def test_slurm_dry_run_prints_the_options_that_submitit_would_give(tmp_path):
    flags = 'flags = { model = "backscatter_stats", seed = [1, 2, 3] }'
    path = written(tmp_path, flags)
    words = (
        "--slurm",
        "--dry_run",
        "--partition",
        "gpu",
        "--time",
        90,
        "--mem",
        1.5,
        "--cpus",
        4,
        "--sbatch",
        "qos=long",
    )
    done = call("suite.__main__", "run", *words, "--set", "device=cpu", path, cwd=tmp_path)
    assert done.code == 0, done.err
    printed = {line for line in done.out.splitlines() if line.startswith("#SBATCH")}
    from submitit.slurm.slurm import _make_sbatch_string

    commands = commands_of({"files": [path], "set": ["device=cpu"]})
    cluster = Cluster(minutes=90, partition="gpu", memory=1.5, cpus=4, more={"qos": "long"})
    asked = {**asked_of_slurm(cluster, commands[0]), "map_count": 3}
    given = {
        line for line in _make_sbatch_string("run", str(tmp_path), **asked).splitlines() if line.startswith("#SBATCH")
    }
    ours_to_say = {
        line
        for line in given
        if not line.startswith(
            ("#SBATCH --output", "#SBATCH --error", "#SBATCH --open-mode", "#SBATCH --signal", "#SBATCH --wckey")
        )
    }
    assert {line.replace("'", "") for line in ours_to_say} == printed
    assert sbatch_lines(commands, cluster)[0] == "# 3 jobs of 1 process"
    assert "3 of 3 runs are to do" in done.out
    assert not (tmp_path / "results").exists()


def test_the_template_for_pbs_runs_the_line_of_its_number(tmp_path):
    store_all([], tmp_path)
    listed = suite(
        "plan", "--commands", written(tmp_path, 'flags = { model = "backscatter_stats", seed = [1, 2] }'), cwd=tmp_path
    )
    assert listed.code == 0
    assert len(listed.out.splitlines()) == 2
    (tmp_path / "commands.txt").write_text("echo 'first line'\necho 'second  line'; exit 3\n")
    script = REPOSITORY / "experiments" / "schedulers" / "pbs.sh"
    env = {"PATH": os.environ["PATH"], "COMMANDS": str(tmp_path / "commands.txt"), "PBS_O_WORKDIR": str(tmp_path)}

    def sub_job(**more):
        return subprocess.run(["bash", script], env={**env, **more}, capture_output=True, text=True, cwd=tmp_path)

    done = sub_job(PBS_ARRAY_INDEX="2")
    assert (done.returncode, done.stdout) == (3, "second  line\n")
    assert sub_job(PBS_ARRAY_INDEX="9").returncode == 2
    assert "submit with qsub -J" in sub_job().stderr
