"""Stores that strangers keep: what is wrong is named and left out, the rest is served, and nothing of theirs runs."""

import hashlib
import json
import os
import shutil
import ssl
import stat
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from hub_server import COMMIT
from make_records import resealed
from stores import board, clean_record, commit, git, ids_in, new_store, put, with_predictions

from fgmae_bench.board import pull
from fgmae_bench.board.files import Folder
from fgmae_bench.board.git import require_address
from fgmae_bench.board.judge import judged
from fgmae_bench.config.run_ids import recorded_id
from fgmae_bench.errors import BenchError
from fgmae_bench.records import all_records, body_sha256, seal
from fgmae_bench.records import record_path as path_of

pytest_plugins = ("hub_server",)
LOGITS, TARGETS = np.array([[2, 1], [0, 3], [1, 2]], np.float32), np.array([0, 0, 1])


@pytest.fixture
def store(tmp_path):
    """A store with a good record and, beside it, one of predictions; tests spoil a third."""
    folder = new_store(tmp_path / "store")
    put(with_predictions(clean_record(seed=1), folder, LOGITS, TARGETS, ("a", "b")), folder)
    put(clean_record(seed=2), folder)
    put(clean_record(seed=3), folder)
    return folder


def third(store):
    return path_of(store, clean_record(seed=3))


def rewritten(path, change, seal=True):
    """Write a record again after `change` of its body."""
    record = json.loads(path.read_text())
    change(record)
    if seal:
        record["sha256"] = body_sha256(record)
    path.write_text(json.dumps(record))


def tampered(store):
    rewritten(third(store), lambda record: record["metrics"]["test"].update(oa=0.999), seal=False)


def newer(store):
    rewritten(third(store), lambda record: record.update(schema=3))


def another_configuration(store):
    rewritten(third(store), lambda record: record["config"]["recipe"].update(lr=0.2))


def another_place(store):
    path = third(store)
    path.rename(path.with_name("vit_small_patch16-published-0123456789.json"))


def two_contents(store):
    record = resealed(clean_record(seed=3), "dataset", "name", "mine")
    put(record, store)


def a_link(store):
    path = third(store)
    path.unlink()
    path.symlink_to("/etc/passwd")


def a_folder_link(store):
    third(store).unlink()
    (store / "records" / "linked").symlink_to("/etc")


def hostile_name(store):
    path = third(store)
    path.rename(path.with_name("-rf \x1b[2J$(reboot).json"))


def deep_name(store):
    place = store / "records" / "a" / "b" / "c" / "d.json"
    place.parent.mkdir(parents=True)
    third(store).rename(place)


def not_json(store):
    third(store).write_bytes(b"\x80\x04\x95pickle")


def other_facts(store):
    rewritten(third(store), lambda record: record["dataset"].update(card_sha256="0" * 64))


def other_units(store):
    rewritten(third(store), lambda record: record["dataset"].update(units="linear_power"))


def newer_card(store):
    rewritten(third(store), lambda record: record["dataset"].update(card_version=99))


def a_field_of_an_author(store):
    rewritten(third(store), lambda record: record.update(confirmed_by="the authors"))


def no_configuration(store):
    rewritten(third(store), lambda record: record["config"].pop("facts"))


def another_protocol(store):
    path = third(store)
    rewritten(path, lambda record: record.update(protocol="knn"))
    place = store / "records" / "eurosat" / "knn" / path.name
    place.parent.mkdir()
    path.rename(place)


FAULTS = {
    another_protocol: "protocol is not what its run id was made of",
    tampered: "sha256 does not match the body: the file was edited",
    newer: "made by a newer version (its schema is 3, this version reads 2)",
    another_configuration: "its configuration gives the run id vit_small_patch16-published-",
    another_place: "name or folder does not match the run inside",
    a_link: "a symbolic link, not a record",
    a_folder_link: "a symbolic link, not a record",
    hostile_name: "not a name of a record",
    deep_name: "not a name of a record",
    not_json: "not a readable record",
    other_facts: "other facts than the card of eurosat states",
    other_units: "other units than the card of eurosat",
    newer_card: "made with version 99 of the card of eurosat, here it is 1",
    a_field_of_an_author: "Additional properties are not allowed",
    no_configuration: "its configuration is not whole",
}


@pytest.mark.parametrize("spoil", FAULTS, ids=lambda spoil: spoil.__name__)
def test_each_fault_is_named_and_the_rest_is_served(spoil, store, tmp_path):
    spoil(store)
    commit(store)
    good = {clean_record(seed=seed)["run_id"] for seed in (1, 2)}
    for done in (board("check", store, cwd=tmp_path), board("pull", store, "--out", "out", cwd=tmp_path)):
        assert done.code == 1, done
        (line,) = [line for line in done.err.splitlines() if line.startswith("left out: ")]
        assert FAULTS[spoil] in line
        assert line.isprintable()
    assert ids_in(tmp_path / "out") == good
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_symlink()]


def of_facts():
    """A record with the facts that runs leave."""
    record = clean_record(seed=4)
    fed = {"bands": ["VV", "VH"], "mean": [-12.59, -20.26], "std": [5.26, 5.91]}
    record["model"]["contract"] = {**fed, "normalizer": "fgmae", "assumed": False}
    record["config"]["facts"] |= {"split": "reference", "weights": record["model"]["weights"]["sha256"], "input": fed}
    record["run_id"] = min(recorded_id(record))
    return record


SAID = {
    "recipe": ("recipe", "corrected"),
    "model": ("model", "name", "vit_base_patch16"),
    "synthetic": ("dataset", "synthetic", True),
    "split": ("dataset", "split", "spatial"),
    "weights": ("model", "weights", "sha256", "0" * 64),
    "contract": ("model", "contract", "mean", [-1.0, -2.0]),
    "assumed contract": ("model", "contract", "assumed", True),
    "normalizer": ("model", "contract", "normalizer", "zscore"),
}


@pytest.mark.parametrize("name", SAID)
def test_what_a_record_says_beside_its_configuration_is_what_its_run_id_was_made_of(name, tmp_path):
    put(seal(of_facts()), tmp_path)
    assert len(judged(Folder(tmp_path).entries(), Folder(tmp_path)).served) == 1
    record = resealed(of_facts(), *SAID[name])
    put(record, tmp_path)
    found = judged(Folder(tmp_path).entries(), Folder(tmp_path))
    assert found.left_out == [f"{record['run_id']}: {name} is not what its run id was made of"]


@pytest.mark.parametrize("facts", [{"input": "all"}, {"input": None, "split": 3}, {"weights": []}])
def test_hostile_facts_are_no_error(facts, tmp_path):
    record = clean_record(seed=4)
    record["config"]["facts"] |= facts
    record["run_id"] = min(recorded_id(record))
    put(seal(record), tmp_path)
    found = judged(Folder(tmp_path).entries(), Folder(tmp_path))
    assert len(found.served) + len(found.left_out) == 1


@pytest.mark.parametrize("value", [0.9, "all"])
def test_scores_of_classes_follow_from_the_predictions(value, tmp_path):
    record = with_predictions(clean_record(seed=1), tmp_path, LOGITS, TARGETS, ("a", "b"))
    own = {"a": {"accuracy": 0.5, "support": 2}, "b": {"accuracy": 1.0, "support": 1}}
    put(resealed(record, "metrics", "per_class", own), tmp_path)
    assert judged(Folder(tmp_path).entries(), Folder(tmp_path)).rescored == 1
    put(resealed(record, "metrics", "per_class", own | {"a": {"accuracy": value, "support": 2}}), tmp_path)
    found = judged(Folder(tmp_path).entries(), Folder(tmp_path))
    assert found.left_out == [f"{record['run_id']}: accuracy of a is another by the predictions"]


def test_two_contents_under_one_id_are_both_left_out(store, tmp_path):
    two_contents(store)
    commit(store)
    done = board("pull", store, "--out", "out", cwd=tmp_path)
    assert done.code == 1
    assert done.err.count("two contents under one id") == 1
    assert len(ids_in(tmp_path / "out")) == 2


def test_predictions_that_were_changed_or_give_other_scores_are_named(store, tmp_path):
    record = clean_record(seed=1)
    path = store / "predictions" / f"{record['run_id']}.safetensors"
    held = path.read_bytes()
    path.write_bytes(held[:-1] + b"\x01")
    assert "sha256 differs" in board("check", store, cwd=tmp_path).err
    path.write_bytes(held)
    rewritten(path_of(store, record), lambda record: record["metrics"]["test"].update(oa=1.0))
    assert "oa is 0.666667 by the predictions, 1.000000 in the record" in board("check", store, cwd=tmp_path).err
    rewritten(path_of(store, record), lambda record: record["dataset"].update(n_test=99))
    assert "3 samples are predicted, 99 recorded" in board("check", store, cwd=tmp_path).err
    path.unlink()
    os.mkfifo(path)  # nobody waits for its other end
    assert "a special file of 0 bytes, not predictions" in board("check", store, cwd=tmp_path).err
    path.unlink()
    assert "its predictions are not in the store" in board("check", store, cwd=tmp_path).err
    (store / "predictions" / "more.bin").write_bytes(b"")
    assert "belongs to no record" in board("check", store, cwd=tmp_path).err


def test_another_content_than_was_pulled_before_is_named_and_the_first_stays(store, tmp_path):
    commit(store)
    assert board("pull", store, "--out", "out", cwd=tmp_path).code == 0
    before = third(tmp_path / "out").read_bytes()
    rewritten(third(store), lambda record: record["metrics"]["test"].update(oa=0.999))
    put(clean_record(seed=4), store)
    commit(store)
    done = board("pull", store, "--out", "out", cwd=tmp_path)
    assert done.code == 1
    assert "two contents under one id" in done.err
    assert third(tmp_path / "out").read_bytes() == before
    assert len(all_records(tmp_path / "out")[0]) == 4


def test_what_is_no_store_is_refused_in_a_line(store, tmp_path):
    commit(store)
    (tmp_path / "plain" / "records").mkdir(parents=True)
    half = tmp_path / "half"
    shutil.copytree(store, half)
    record = git(store, "rev-parse", f"HEAD:{third(store).relative_to(store)}")
    (half / ".git" / "objects" / record[:2] / record[2:]).unlink()
    for source, words in (
        (tmp_path / "plain", "is not a git repository"),
        (tmp_path / "nowhere", "does not exist"),
        (half, "git fetch failed"),
        ("ext::sh -c 'touch marker'", "is not an address of a store"),
        ("file:///etc", "is not an address of a store"),
        ("-u", "the following arguments are required"),
        ("hub:../../etc", "is not a data set of the hub"),
    ):
        done = board("pull", source, "--out", "out", cwd=tmp_path)
        assert done.code == 2, source
        assert words in done.err
        assert done.err.count("\n") == 1
        assert not (tmp_path / "out").exists()
    assert "git fetch failed" in board("pull", store, "--branch", "gone", "--out", "out", cwd=tmp_path).err
    assert "--branch -x" in board("pull", store, "--branch=-x", "--out", "out", cwd=tmp_path).err
    assert not (tmp_path / "marker").exists()
    assert board("check", tmp_path / "plain", cwd=tmp_path).code == 2


@pytest.mark.parametrize(
    "address", ["ext::sh", "http://a/b", "git://a/b", "--upload-pack=x", "ssh://-oProxyCommand=x/y", "fd::1"]
)
def test_addresses_that_run_or_trust_something_are_refused(address):
    with pytest.raises(BenchError):
        require_address(address)


def test_a_pull_into_another_stores_folder_is_refused(store, tmp_path):
    commit(store)
    assert board("pull", store, "--out", "out", cwd=tmp_path).code == 0
    other = new_store(tmp_path / "other")
    assert "holds the records of another store" in board("pull", other, "--out", "out", cwd=tmp_path).err


def test_nothing_of_a_store_runs(store, tmp_path):
    """Hooks, filters, a monitor of files, a pager, an alias: each would leave a marker."""
    marker = tmp_path / "marker"
    run = store / "run.sh"
    run.write_text(f"#!/bin/sh\ntouch {marker}\ncat\n")
    run.chmod(0o755)
    (store / ".gitattributes").write_text("* filter=evil diff=evil merge=evil\n")
    (store / ".gitmodules").write_text(f'[submodule "x"]\n\tpath = x\n\turl = ext::{run}\n')
    commit(store)
    for hook in ("post-checkout", "post-merge", "pre-receive", "reference-transaction", "post-upload-pack"):
        shutil.copy(run, store / ".git" / "hooks" / hook)
    for name in (
        "filter.evil.smudge",
        "filter.evil.clean",
        "diff.evil.textconv",
        "diff.external",
        "core.fsmonitor",
        "core.pager",
        "core.sshCommand",
        "uploadpack.packObjectsHook",
        "alias.fetch",
    ):
        git(store, "config", name, str(run))
    git(store, "config", "core.hooksPath", str(store / ".git" / "hooks"))
    marker.unlink(missing_ok=True)
    for words in (("pull", store, "--out", "out"), ("check", store)):
        assert board(*words, cwd=tmp_path).code == 0
    assert not marker.exists()


def test_an_environment_that_leads_git_elsewhere_is_not_followed(store, tmp_path, monkeypatch):
    commit(store)
    other = new_store(tmp_path / "other")
    for name, value in (("GIT_DIR", other / ".git"), ("GIT_WORK_TREE", other), ("GIT_OBJECT_DIRECTORY", other)):
        monkeypatch.setenv(name, str(value))
    assert board("pull", store, "--out", "out", cwd=tmp_path).code == 0
    assert len(ids_in(tmp_path / "out")) == 3


def test_a_submodule_in_the_place_of_records_is_no_record(store, tmp_path):
    commit(store)
    head = git(store, "rev-parse", "HEAD")
    git(store, "update-index", "--add", "--cacheinfo", f"160000,{head},records/eurosat/sub")
    git(store, "commit", "--quiet", "--message", "A submodule")
    done = board("pull", store, "--out", "out", cwd=tmp_path)
    assert "records/eurosat/sub: a submodule, not a record" in done.err
    assert len(ids_in(tmp_path / "out")) == 3


def pointer(content):
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{hashlib.sha256(content).hexdigest()}\nsize {len(content)}\n"


def test_large_files_of_a_hub_come_by_the_hub_and_elsewhere_are_said(store, tmp_path, hub, monkeypatch):
    path = store / "predictions" / f"{clean_record(seed=1)['run_id']}.safetensors"
    content = path.read_bytes()
    hub.files[f"owner/store/predictions/{path.name}"] = content
    path.write_text(pointer(content))
    commit(store)
    assert "a pointer of git LFS" in board("check", store, cwd=tmp_path).err
    plain = board("pull", store, "--out", "plain", cwd=tmp_path)
    assert plain.code == 0
    assert not (tmp_path / "plain" / "predictions").exists()
    monkeypatch.setattr(pull, "_hub_address", lambda source: str(store))
    done = board("pull", "hub:owner/store", "--out", "out", cwd=tmp_path)
    assert done.code == 0, done.err
    held = tmp_path / "out" / "predictions" / path.name
    assert held.read_bytes() == content
    assert stat.S_IMODE(held.stat().st_mode) == 0o444
    said = json.loads((tmp_path / "out" / "provenance" / f"{path.stem}.json").read_text())
    assert said["store"] == "hub:owner/store"


@pytest.fixture
def hub_of_git(tmp_path, monkeypatch):
    """A hub on 127.0.0.1 that speaks https, as git demands, and serves a folder of repositories; the folder."""
    key, certificate, root = tmp_path / "key.pem", tmp_path / "certificate.pem", tmp_path / "hub"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*words, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    (root / "datasets" / "owner").mkdir(parents=True)
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *given):
            super().__init__(*given, directory=str(root))

        def log_message(self, *parts):
            asked.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"https://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("GIT_SSL_CAINFO", str(certificate))
    yield root / "datasets" / "owner", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_data_set_of_the_hub_is_a_store(store, tmp_path, hub_of_git):
    place, asked = hub_of_git
    commit(store)
    git(tmp_path, "clone", "--quiet", "--bare", store, place / "store")
    git(place / "store", "update-server-info")
    done = board("pull", "hub:owner/store", "--out", "out", cwd=tmp_path)
    assert done.code == 0, done.err
    assert ids_in(tmp_path / "out") == ids_in(store)
    for path in (store / "predictions").iterdir():
        assert (tmp_path / "out" / "predictions" / path.name).read_bytes() == path.read_bytes()
    assert any(path.startswith("/datasets/owner/store/info/refs") for path in asked)
    gone = board("pull", "hub:owner/other", "--out", "none", cwd=tmp_path)
    assert (gone.code, gone.err.count("\n")) == (2, 1)
    assert not (tmp_path / "none").exists()


def test_the_address_of_a_data_set_of_the_hub(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example.org/")
    assert pull._hub_address("hub:a/b") == "https://hub.example.org/datasets/a/b"
    assert pull._public("https://me:secret@example.org/a") == "https://example.org/a"
    assert pull._name("https://example.org/a/my store.git/") == "my-store"


def author(model, digest, contract):
    return {"confirms": [{"model": model, "weights_sha256": digest, "contract": contract}]}


def test_only_a_file_beside_the_weights_confirms_an_integration(store, tmp_path, hub):
    contract = {"bands": ["VV", "VH"], "normalizer": "fgmae", "mean": [1.0, 2.0], "std": [1.0, 2.0], "size": 224}
    record = resealed(clean_record(seed=3), "model", "contract", contract)
    put(record, store)
    (store / "provenance").mkdir()
    theirs = {"confirmed_by": "nobody", "sha256": record["sha256"]}
    (store / "provenance" / f"{record['run_id']}.json").write_text(json.dumps(theirs))
    (store / "fgmae_bench.json").write_text(json.dumps(author("vit_small_patch16", None, contract)))
    commit(store)

    def confirmed(out):
        assert board("pull", store, "--out", out, "--ask_authors", cwd=tmp_path).code == 0
        said = [json.loads(path.read_text()) for path in sorted((tmp_path / out / "provenance").iterdir())]
        return [each["confirmed_by"] for each in said if "confirmed_by" in each]

    assert confirmed("without") == []
    digest = record["model"]["weights"]["sha256"]
    for number, statement in enumerate(
        (
            author("vit_small_patch16", "0" * 64, contract),
            author("vit_base_patch16", digest, contract),
            author("vit_small_patch16", digest, {**contract, "size": 225}),
            {"confirms": "all"},
            ["all"],
        )
    ):
        hub.files["wangyi111/FGMAE/fgmae_bench.json"] = json.dumps(statement).encode()
        assert confirmed(f"no-{number}") == []
    hub.files["wangyi111/FGMAE/fgmae_bench.json"] = json.dumps(author("vit_small_patch16", digest, contract)).encode()
    assert confirmed("yes") == [f"wangyi111/FGMAE@{COMMIT}"]
    assert board("pull", store, "--out", "unasked", cwd=tmp_path).code == 0
    assert "confirmed_by" not in (tmp_path / "unasked" / "provenance" / f"{record['run_id']}.json").read_text()
