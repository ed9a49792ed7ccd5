"""Records between two real git repositories: what is submitted is pulled, says who brought it, and gives its scores again."""

import getpass
import json
import platform
import shutil

import numpy as np
import pytest
from commands import EUROSAT_CARD, FOLDERS, STATISTICS, call, only_record, shared_world
from make_records import make_record, resealed, store_all
from stores import board, clean_record, commit, git, ids_in, new_store, put, with_maps, with_predictions, with_sums

import fgmae_bench
from fgmae_bench.board import clean, submit
from fgmae_bench.board.judge import judged
from fgmae_bench.board.remarks import HARMLESS
from fgmae_bench.config.run_ids import recorded_id
from fgmae_bench.metrics.regression import PixelSums
from fgmae_bench.records import all_records, body_sha256, read_record
from fgmae_bench.records import record_path as path_of

USER, HOST = "adalovelace", "ada-workstation"


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A user's folder, whose path names the user, with one real run of a card of the user's own."""
    home = tmp_path_factory.mktemp("home") / USER
    home.mkdir()
    text = EUROSAT_CARD.read_text().replace('name = "eurosat"', 'name = "my_chips"', 1)
    (home / "card.toml").write_text(text)
    (home / "data").symlink_to(shared_world(5))
    data = ("--dataset", home / "card.toml", "--data_path", home / "data", "--partial", *STATISTICS)
    done = call("linear", *data, *FOLDERS, cwd=home)
    assert done.code == 0, done.err
    return home


@pytest.fixture
def stores(tmp_path):
    """(a bare repository, a clone of it)."""
    begun = new_store(tmp_path / "begun")
    git(tmp_path, "clone", "--quiet", "--bare", begun, tmp_path / "theirs.git")
    git(tmp_path, "clone", "--quiet", tmp_path / "theirs.git", tmp_path / "clone")
    return tmp_path / "theirs.git", tmp_path / "clone"


def explained(record):
    codes = ("partial", "git_dirty", "head_not_trained", "data_trusted")
    return [word for code in codes for word in ("--explain", f"{code}=a test of the board")]


def test_what_is_submitted_comes_back_with_its_origin(desk, stores, tmp_path, monkeypatch):
    theirs, clone = stores
    monkeypatch.setattr(submit, "own_names", lambda: [USER, HOST])
    own = only_record(desk / "results")
    done = board("submit", own["run_id"], "--store", clone, *explained(own), cwd=desk)
    assert done.code == 0, done.err
    assert f"wrote  records/my_chips/linear_probe/{own['run_id']}.json" in done.out
    assert "switch --create" in done.out
    checked = board("check", clone, cwd=tmp_path)
    assert (checked.code, checked.err) == (0, ""), checked
    assert "1 records are good, the scores of 1 computed again" in checked.out
    git(clone, "switch", "--create", "results")
    commit(clone, who="Ada Lovelace")
    git(clone, "push", "--quiet", "origin", "HEAD:main")

    pulled = board("pull", theirs, cwd=tmp_path)
    assert pulled.code == 0, pulled.err
    out = tmp_path / "pulled" / "theirs"
    (record,) = [record for _, record in all_records(out)[0]]
    assert record["metrics"] == own["metrics"]
    assert record["run_id"] == own["run_id"]
    said = json.loads((out / "provenance" / f"{own['run_id']}.json").read_text())
    assert said["submitted_by"] == "Ada Lovelace"
    assert said["submitted_commit"] == git(clone, "rev-parse", "HEAD")
    assert said["sha256"] == record["sha256"]
    assert {path.stat().st_mode & 0o222 for path in [out, *out.rglob("*")]} == {0}
    assert (out / "predictions" / f"{own['run_id']}.safetensors").is_file()

    frame = fgmae_bench.results(out, pulled=[])
    assert frame.predictions()["target"].notna().all()
    again = board("pull", theirs, cwd=tmp_path)
    assert (again.code, again.out) == (0, pulled.out)


def test_a_submitted_record_names_neither_folder_nor_user_nor_host(desk, stores, monkeypatch):
    _, clone = stores
    monkeypatch.setattr(submit, "own_names", lambda: [USER, HOST, *clean.own_names()])
    path = next((desk / "results" / "records").rglob("*.json"))
    own, before = read_record(path), path.read_bytes()
    assert USER in before.decode()  # control
    noisy = resealed(
        own, "notes", [*own["notes"], {"code": "rule", "text": f"{desk}/a b.tif by {USER}@{HOST}, and/or 2/3"}]
    )
    noisy = resealed(noisy, "environment", "platform", f"Linux-6.1-{HOST}")
    other = clone.parent / "results"
    put(noisy, other)
    shutil.copytree(desk / "results" / "predictions", other / "predictions")
    done = board("submit", noisy["run_id"], "--store", clone, "--results_dir", other, *explained(own), cwd=desk)
    assert done.code == 0, done.err
    for file in [path for path in clone.rglob("*") if path.is_file() and ".git" not in path.parts]:
        content = file.read_bytes()
        for word in (str(desk), str(clone.parent), USER, HOST, "/tmp/", "/home/", "~/"):
            assert word.encode() not in content, (file, word)
    record = read_record(path_of(clone, own))
    assert "and/or 2/3" in record["notes"][-1]["text"]
    assert record["config"]["data"]["dataset"] == "my_chips"
    assert set(record["config"]["execution"].values()) >= {None}
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("read /home/ada/x.tif, then", "read PATH, then"),
        ("~/x and ~ada/y", "PATH and PATH"),
        (r"C:\Users\ada\x (D:/y)", "PATH (PATH)"),
        ("file:///home/ada/x", "PATH"),
        ("at:/home/ada", "at:PATH"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("images/s, VV / VH, 1/2, and/or, a/b.c", "images/s, VV / VH, 1/2, and/or, a/b.c"),
        ("by Ada on Adams", "by NAME on Adams"),
    ],
    ids=str,
)
def test_paths_and_names_go_and_fractions_stay(text, wanted):
    record = clean_record(notes=(("a_note", text),))
    assert clean.stripped(record, ["ada"])["notes"][0]["text"] == wanted


def test_a_command_keeps_its_flags():
    line = (
        "python -m fgmae_bench.linear --dataset '/a b/card.toml' --data_path=/c/d --lr 0.1 --model m --weights ../w.pth"
    )
    record = resealed(clean_record(), "environment", "command", line)
    found = clean.stripped(record, [])["environment"]["command"]
    assert found == ("python -m fgmae_bench.linear --dataset PATH --data_path=PATH --lr 0.1 --model m --weights PATH")


def test_a_path_in_what_the_run_id_is_made_of_is_refused(stores, tmp_path):
    record = clean_record()
    record["config"]["facts"]["weights"] = "/home/ada/w.pth"
    record["run_id"] = min(recorded_id(record))
    put({**record, "sha256": body_sha256(record)}, tmp_path / "results")
    done = board("submit", record["run_id"], "--store", stores[1], cwd=tmp_path)
    assert done.code == 2
    assert "'/home/ada/w.pth' stays in it" in done.err
    assert ids_in(stores[1]) == set()


def test_names_of_this_machine_are_known(monkeypatch):
    monkeypatch.setattr(getpass, "getuser", lambda: USER)
    monkeypatch.setattr(platform, "node", lambda: f"{HOST}.example.org")
    assert {USER, HOST, f"{HOST}.example.org"} <= set(clean.own_names())
    monkeypatch.setattr(getpass, "getuser", lambda: "root")
    assert "root" not in clean.own_names()


def test_notes_that_ask_for_a_sentence_are_named_by_submit_and_check(stores, tmp_path):
    record = make_record(notes=(("test_is_val", "a"), ("contract_mismatch", "b"), ("new_code", "c")))
    put(record, tmp_path / "results")
    (done) = board("submit", record["run_id"], "--store", stores[1], cwd=tmp_path)
    assert done.code == 2
    assert "contract_mismatch, new_code, git_dirty must be explained" in done.err
    put(record, stores[1])
    checked = board("check", stores[1], cwd=tmp_path)
    assert checked.code == 1
    assert [line.split(": ")[-1] for line in checked.err.splitlines()] == [
        f"{code} is not explained" for code in ("contract_mismatch", "new_code", "git_dirty")
    ]
    path_of(stores[1], record).unlink()
    said = [
        word for code in ("contract_mismatch", "new_code", "git_dirty") for word in ("--explain", f"{code}=since it is")
    ]
    assert board("submit", record["run_id"][:-2], "--store", stores[1], *said, cwd=tmp_path).code == 0
    assert board("check", stores[1], cwd=tmp_path).code == 0
    more = board("submit", record["run_id"], "--store", stores[1], *said, cwd=tmp_path)
    assert "holds all of it already" in more.out


def test_submit_refuses_what_the_store_holds_with_other_content(stores, tmp_path):
    record = clean_record()
    put(record, tmp_path / "results")
    put(resealed(record, "timing", "total_seconds", 1.0), stores[1])
    done = board("submit", record["run_id"], "--store", stores[1], cwd=tmp_path)
    assert done.code == 2
    assert "holds other content already" in done.err
    assert board("submit", "nothing", "--store", stores[1], cwd=tmp_path).code == 2
    assert board("submit", record["run_id"], "--store", tmp_path, cwd=tmp_path).err.count("not a git repository") == 1


def test_submit_writes_through_no_link(stores, tmp_path):
    record = clean_record()
    put(record, tmp_path / "results")
    (tmp_path / "elsewhere").mkdir()
    (stores[1] / "records").symlink_to(tmp_path / "elsewhere")
    done = board("submit", record["run_id"], "--store", stores[1], cwd=tmp_path)
    assert (done.code, "symbolic link" in done.err) == (2, True)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_others_records_stand_in_tables_with_their_origin(stores, tmp_path, monkeypatch):
    monkeypatch.setattr("fgmae_bench.report.output.write_figures", lambda *given: None)
    monkeypatch.setattr("fgmae_bench.report.page.write", lambda *given: None)
    theirs, clone = stores
    record = clean_record(lr=0.1, test={"oa": 0.87654})
    put(record, clone)
    commit(clone, who="Grace Hopper")
    git(clone, "push", "--quiet", "origin", "HEAD:main")
    assert board("pull", theirs, "--out", "others", cwd=tmp_path).code == 0
    own = resealed(record, "metrics", "test", "oa", 0.5)
    store_all([make_record(seed=7)], tmp_path / "results")
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "a.toml").write_text(
        'title = "A"\nmodule = "linear"\nprotocol = "linear_probe"\n[common]\ndataset = "eurosat"\nseed = 42\nbatch_size = 16\n'
        '[layout]\ncolumns = ["run", "oa", "remarks"]\n[[runs]]\nlabel = "ViT-S"\nnproc_per_node = 2\n'
    )
    flags = ("--experiments", "experiments", "--formats", "md", "--out", "out", "--pulled", "others")
    done = call("report", *flags, cwd=tmp_path)
    assert done.code == 0, done.err
    table = (tmp_path / "out" / "tables" / "a.md").read_text()
    assert "submitted by Grace Hopper" in table
    assert ".877" in table
    store_all([own], tmp_path / "results")  # one's own record of the same run stands before the other's
    assert call("report", *flags, cwd=tmp_path).code == 0
    table = (tmp_path / "out" / "tables" / "a.md").read_text()
    assert "Grace Hopper" not in table
    assert ".500" in table


def test_a_pulled_record_that_was_changed_afterwards_is_left_out(stores, tmp_path):
    theirs, clone = stores
    record = clean_record()
    put(record, clone)
    commit(clone)
    git(clone, "push", "--quiet", "origin", "HEAD:main")
    board("pull", theirs, "--out", "others", cwd=tmp_path)
    path = path_of(tmp_path / "others", record)
    path.chmod(0o644)
    path.write_text(json.dumps(resealed(record, "metrics", "test", "oa", 0.99)))
    (tmp_path / "results").mkdir()
    assert len(fgmae_bench.results(tmp_path / "results", pulled=[tmp_path / "others"])) == 0


def test_the_run_id_of_every_committed_record_follows_from_its_configuration():
    from commands import REPOSITORY

    found, _ = all_records(REPOSITORY / "results")
    assert found
    assert all(record["run_id"] in recorded_id(record) for _, record in found)


@pytest.mark.parametrize("kind", ["single", "several", "number", "maps", "pixels"])
def test_what_is_submitted_of_every_task_gives_its_scores_again(stores, tmp_path, kind):
    """From `submit` to `check`; then scores that are a hundredth off, under a hash of their own, are found."""
    random, own, classes = np.random.default_rng(0), tmp_path / "results", ("a", "b", "c")
    record, clone = clean_record(seed=5), stores[1]
    logits = random.normal(size=(40, 3)).astype(np.float32)
    if kind == "maps":
        record = with_maps(record, own, random.integers(0, 50, (12, 3, 3)), classes)
    elif kind == "pixels":
        sums = PixelSums(origin=10.0, levels=(5.0,), bins=(0.0, 20.0))
        truth = random.uniform(0, 30, (12, 64))
        rows = [sums.row(t + random.normal(0, 3, 64), t) for t in truth]
        record = with_sums(record, own, np.stack(rows), sums)
    else:
        targets = {
            "single": random.integers(0, 3, 40),
            "several": random.integers(0, 2, (40, 3)).astype(np.uint8),
            "number": random.normal(size=(40, 1)).astype(np.float32),
        }[kind]
        width = targets.shape[1] if kind == "number" else 3
        record = with_predictions(record, own, logits[:, :width], targets, classes[:width])
    put(record, own)
    done = board("submit", record["run_id"], "--store", clone, cwd=tmp_path)
    assert done.code == 0, done.err
    checked = board("check", clone, cwd=tmp_path)
    assert checked.code == 0, checked.err
    assert "the scores of 1 computed again" in checked.out
    name, value = next((n, v) for n, v in record["metrics"]["test"].items() if n != "loss" and v is not None)
    path = path_of(clone, record)
    path.write_text(json.dumps(resealed(read_record(path), "metrics", "test", name, value * 0.99)))
    checked = board("check", clone, cwd=tmp_path)
    assert checked.code == 1
    assert f"{name} is" in checked.err
    assert "by the predictions" in checked.err


def test_harmless_notes_are_notes_of_the_documents():
    from commands import REPOSITORY

    text = (REPOSITORY / "docs" / "records.md").read_text()
    assert [code for code in HARMLESS if f"`{code}`" not in text] == []


def test_judging_reads_each_record_once(tmp_path):
    from fgmae_bench.board.files import Folder

    store = new_store(tmp_path / "store")
    for seed in range(3):
        put(clean_record(seed=seed), store)
    folder, read = Folder(store), []
    real = folder.read
    folder.read = lambda entry: read.append(entry.path) or real(entry)
    assert len(judged(folder.entries(), folder).served) == 3
    assert len(read) == len(set(read)) == 3
