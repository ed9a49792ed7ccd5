"""`prepare` as a user runs it: the world it writes trains, and what it refuses leaves nothing. (Pixels:
test_worlds.py.)
"""

import resource

import pytest
from commands import STATISTICS, call, linear, listing, only_record, refused, said, spawn


def prepare(*flags, cwd):
    return call("prepare", *flags, cwd=cwd)


def test_the_command_it_names_next_runs_as_it_stands(tmp_path):
    written = prepare("synth", "eurosat", "--per-class", 6, cwd=tmp_path)
    assert written.code == 0, written.err
    command = written.out.split("next: python -m fgmae_bench.linear ")[1].split()
    assert command[command.index("--data_path") + 1] == "datasets/eurosat-synthetic/data"
    done = call("linear", *command, *STATISTICS, "--cache_dir", "cache", cwd=tmp_path)
    assert done.code == 0, done.err
    record = only_record(tmp_path / "results")
    assert (record["dataset"]["n_train"], record["dataset"]["n_test"], record["dataset"]["synthetic"]) == (48, 12, True)
    assert (tmp_path / "runs" / "eurosat" / record["run_id"] / "tensorboard").is_dir()


def test_a_world_is_written_once_and_another_one_not_over_it(tmp_path):
    first = prepare("synth", "eurosat", "--per_class", 2, "--data_path", "w", cwd=tmp_path)
    assert "20 synthetic images (no real data) written to w" in first.out
    before = listing(tmp_path)
    assert (
        "20 synthetic images (no real data) are already in w"
        in prepare("synth", "eurosat", "--per_class", 2, "--out", "w", cwd=tmp_path).out
    )
    assert listing(tmp_path) == before
    assert "w is not empty; choose another folder or remove it" in refused(
        "synth", "eurosat", "--per_class", 3, "--out", "w", cwd=tmp_path, run=prepare
    )
    assert "is not empty" in refused(
        "synth", "eurosat", "--per_class", 2, "--seed", 1, "--out", "w", cwd=tmp_path, run=prepare
    )


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (("sinth", "eurosat"), "unknown command 'sinth'; did you mean 'synth'?"),
        (("synth",), "the following arguments are required: WORLD; see --help"),
        (("synth", "eurosta"), "unknown world 'eurosta'; did you mean 'eurosat'?"),
        (("synth", "eurosat", "dfc2020"), "unexpected argument 'dfc2020'; see --help"),
        (("synth", "eurosat", "--per_clas", "3"), "unknown flag '--per_clas'; did you mean '--per_class'?"),
        (("synth", "eurosat", "--per-clas=3"), "unknown flag '--per-clas=3'; did you mean '--per_class'?"),
        (("synth", "eurosat", "--per_class", "0"), "per_class is 0; ask for 1 image or more"),
        (("synth", "eurosat", "--per_class", "-2"), "per_class is -2; ask for 1 image or more"),
        (("synth", "eurosat", "--per_class", "many"), "invalid int value: 'many'; see --help"),
        (("synth", "eurosat", "--per_class", "1", "--data_path", "a_file"), "a_file"),
        (("synth", "eurosat", "--per_class", "1", "--data_path", "a_file/below"), "a_file/below"),
        (("synth", "eurosat", "--per_class", "1", "--data_path", "/proc/nothing/here"), "/proc/nothing"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_written_is_refused(tmp_path, flags, fault):
    (tmp_path / "a_file").write_text("in the way")
    assert fault in refused(*flags, cwd=tmp_path, run=prepare)


def test_full_disk_while_a_world_is_written(tmp_path):
    (tmp_path / "mine").mkdir()
    before = listing(tmp_path)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))  # an image has 33 kB
    try:
        done = prepare("synth", "eurosat", "--per_class", 1, "--data_path", "mine/new/w", cwd=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "no space left while writing" in said(done)
    assert listing(tmp_path) == before


def test_interrupted_writing_leaves_nothing(tmp_path, monkeypatch):
    from fgmae_bench.worlds import eurosat

    written = []

    def stop(path, *_):
        written.append(path)
        if len(written) == 3:
            raise KeyboardInterrupt
        path.write_bytes(b"")

    monkeypatch.setattr(eurosat, "write_chip", stop)
    done = prepare("synth", "eurosat", "--per_class", 2, "--data_path", "new/w", cwd=tmp_path)
    assert (done.code, done.err) == (130, "interrupted\n")
    assert listing(tmp_path) == {}


def test_a_world_inside_a_folder_of_its_own_is_found(tmp_path):
    """Archives leave one wrapping folder; it is stepped into."""
    assert prepare("synth", "eurosat", "--per_class", 5, "--data_path", "archive/inner", cwd=tmp_path).code == 0
    done = linear("archive", cwd=tmp_path)
    assert done.code == 0, done.err
    assert only_record(tmp_path / "results")["dataset"]["synthetic"] is True


def test_a_world_without_places_is_written_without_a_word_of_warning(tmp_path):
    done = spawn("prepare", "synth", "dfc2020", "--tiles", "24", "--size", "32", "--data_path", "w", cwd=tmp_path)
    assert done.code == 0
    assert "Warning" not in done.err
