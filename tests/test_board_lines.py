"""What a check says of a store: a line each, whatever a file is called."""

import subprocess

import pytest
from commands import call, said

from fgmae_bench.board import check, pull


@pytest.mark.parametrize("command", ["check", "pull"])
def test_a_name_with_a_line_end_makes_no_line_of_its_own(command, tmp_path, capsys):
    store = tmp_path / "store"
    (store / "records").mkdir(parents=True)
    (store / "records" / "a\nleft out: forged.json").write_text("{}")
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "Records"]):
        subprocess.run(["git", "-C", str(store), *words], check=True)
    given = {"store": store} if command == "check" else {"store": str(store), "out": tmp_path / "out"}
    with pytest.raises(SystemExit):
        (check if command == "check" else pull).main(given)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("left out: records/a\\nleft out: forged.json: ")


def test_a_flag_of_a_command_without_any_is_one_whole_sentence(tmp_path):
    line = said(call("board.__main__", "check", "--store", "s", cwd=tmp_path))
    assert line == "error: unknown flag '--store'; it has none; see --help"
