"""What the repository holds of results: records that name no folder of the machine that made them."""

import json
import re
import subprocess

import pytest
from commands import REPOSITORY

PLACES = re.compile(r'"(/(?!dev/)|[A-Za-z]:\\)')


def test_no_committed_record_names_a_folder_of_its_machine():
    if not (REPOSITORY / ".git").exists():
        pytest.skip("no repository: what is committed is not known")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "*.json"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    paths = [REPOSITORY / name for name in listed.stdout.split("\0") if "records/" in name]
    assert paths
    found = {path.name: json.dumps(json.loads(path.read_text())["config"]) for path in paths}
    assert {name: text for name, text in found.items() if PLACES.search(text)} == {}
