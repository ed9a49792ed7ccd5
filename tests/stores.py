"""Stores for tests: real git repositories, filled with made-up records or with those of real runs."""

import json
import os
import subprocess

from commands import call
from make_records import make_record, resealed, sha

from fgmae_bench.hub.checksums import sha256_of
from fgmae_bench.records import as_text, record_path
from fgmae_bench.runs.folder import write_predictions


def git(folder, *words, who="Ada Lovelace"):
    """What git says in a folder, without the settings of this machine."""
    env = {
        **{key: value for key, value in os.environ.items() if not key.startswith("GIT_")},
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        **{f"GIT_{role}_NAME": who for role in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{role}_EMAIL": "nobody@example.org" for role in ("AUTHOR", "COMMITTER")},
    }
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def new_store(folder):
    """An empty store: a repository with a README."""
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet", "--initial-branch", "main")
    (folder / "README.md").write_text("Results\n")
    return commit(folder)


def commit(folder, who="Ada Lovelace"):
    """Commit all that is there; the folder."""
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "Results", who=who)
    return folder


def clean_record(**how):
    """A made-up record that a store may hold: of a tree without changes."""
    return resealed(make_record(**how), "environment", "git_dirty", False)


def put(record, folder):
    """Write a record where a store has it; the path."""
    path = record_path(folder, record)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(as_text(record))
    return path


def with_predictions(record, folder, logits, targets, classes):
    """The record of these logits, with the scores that they give, and its file below `folder`."""
    from fgmae_bench.board.scores import _scores
    from fgmae_bench.report.predictions import read_predictions

    ids = [f"s{i}" for i in range(len(targets))]
    path = folder / "predictions" / f"{record['run_id']}.safetensors"
    write_predictions(path, logits, targets, ids, classes)
    record = resealed(record, "dataset", "sample_ids_sha256", "test", sha("\n".join(ids)))
    record = resealed(record, "dataset", "n_test", len(ids))
    record = resealed(record, "predictions", {"sha256": sha256_of(path), "file": f"predictions/{path.name}"})
    return resealed(record, "metrics", "test", _scores(read_predictions(record, path)))


def with_maps(record, folder, confusions, classes):
    """The record of these confusion matrices (N, K, K), with the scores that they give, and its file below `folder`."""
    return _with_file(record, folder, {"confusion": confusions}, {"ids": _ids(len(confusions)), "classes": classes})


def with_sums(record, folder, rows, sums):
    """The record of a regression of pixels, of one row of `sums` an image."""
    made = {"origin": sums.origin, "levels": sums.levels, "bins": sums.bins}
    return _with_file(record, folder, {"sums": rows}, {"ids": _ids(len(rows)), "classes": ["height"], "sums": made})


def _ids(count):
    return [f"s{i}" for i in range(count)]


def _with_file(record, folder, tensors, lists):
    from safetensors.numpy import save

    from fgmae_bench.board.scores import _confusion, _scores
    from fgmae_bench.report.predictions import read_predictions

    path = folder / "predictions" / f"{record['run_id']}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(save(tensors, {name: json.dumps(value) for name, value in lists.items()}))
    record = resealed(record, "dataset", "sample_ids_sha256", "test", sha("\n".join(lists["ids"])))
    record = resealed(record, "dataset", "n_test", len(lists["ids"]))
    record = resealed(record, "predictions", {"sha256": sha256_of(path), "file": f"predictions/{path.name}"})
    held = read_predictions(record, path)
    record = resealed(record, "metrics", "per_class", {})
    if (matrix := _confusion(held)) is not None:
        record = resealed(record, "metrics", "confusion", matrix.tolist())
        record = resealed(record, "metrics", "per_class", {name: {} for name in lists["classes"]})
    return resealed(record, "metrics", "test", _scores(held))


def board(*words, cwd):
    """`python -m fgmae_bench.board …`."""
    return call("board.__main__", *words, cwd=cwd)


def ids_in(folder):
    """The run ids of the records below a folder."""
    return {json.loads(path.read_text())["run_id"] for path in (folder / "records").rglob("*.json")}
