"""HF_ENDPOINT as a process finds it at its start: packages read it as they are imported, and break on a malformed one."""

import os
import subprocess
import sys
import types

import pytest
from commands import REPOSITORY

from fgmae_bench.config.flags import dispatch
from fgmae_bench.errors import BenchError
from fgmae_bench.system.endpoint import hub_endpoint, without_password

MALFORMED = ["http://[::1", "http://host:99999", "https://me:secret@host:abc"]


def started(*words, address):
    """A new interpreter, in which nothing has read the variable yet."""
    env = os.environ | {"HF_ENDPOINT": address, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env=env)


@pytest.mark.parametrize("address", MALFORMED[:2])
def test_pull_of_a_hub_store_ends_in_one_line(address, tmp_path):
    out = tmp_path / "out"
    done = started("-m", "fgmae_bench.board", "pull", "hub:owner/name", "--out", str(out), address=address)
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (2, 1, "")
    assert done.stderr.startswith(f"error: HF_ENDPOINT is '{address}', a malformed address (")
    assert not out.exists()


def test_models_refuse_it_before_timm_is_imported():
    code = "from fgmae_bench.errors import run_entry\nrun_entry(lambda: __import__('fgmae_bench.models') and 0)"
    done = started("-c", code, address=MALFORMED[0])
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "HF_ENDPOINT" in done.stderr


@pytest.mark.parametrize(("address", "kind"), [("http://[::1", BenchError), ("https://hub.example", ValueError)])
def test_a_command_whose_imports_end_on_it_is_one_line(monkeypatch, address, kind):
    def main(given):
        raise ValueError("Invalid IPv6 URL")

    command = types.SimpleNamespace(__doc__="A command.", add_flags=lambda parser: None, main=main)
    monkeypatch.setattr("importlib.import_module", lambda name: command)
    monkeypatch.setenv("HF_ENDPOINT", address)
    with pytest.raises((BenchError, ValueError)) as caught:
        dispatch("package", {"go": "goes"}, "", print, ["go"])
    assert caught.type is kind


def test_messages_hold_no_password(monkeypatch):
    assert without_password("https://me:se@cret@host:1/a@b") == "https://host:1/a@b"
    assert without_password("me:secret@host") == "host"
    assert without_password("https://host/a") == "https://host/a"
    monkeypatch.setenv("HF_ENDPOINT", MALFORMED[2])
    with pytest.raises(BenchError) as caught:
        hub_endpoint()
    assert "'https://host:abc'" in str(caught.value)
    assert "secret" not in str(caught.value)
