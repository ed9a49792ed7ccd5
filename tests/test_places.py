"""How many top-level places of the package a run enters, by tracing calls: a reader follows one run through few rooms."""

import json
import subprocess
import sys

import pytest
from commands import FOLDERS, REPOSITORY, shared_world
from segment_world import FROZEN

pytest_plugins = ("segment_world",)

AT_MOST = 16
TRACED = """
import json, os, runpy, sys, threading
root = sys.argv.pop(1) + os.sep
here, threads = set(), set()

def look(seen):
    def profile(frame, event, arg):
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(root) and code.co_name != "<module>":
            seen.add(code.co_filename[len(root):])
    return profile

sys.argv = sys.argv[1:]
threading.setprofile(look(threads))
sys.setprofile(look(here))
try:
    runpy.run_module(sys.argv[0], run_name="__main__")
except SystemExit as end:
    code = end.code
finally:
    sys.setprofile(None)
places = lambda seen: sorted({path.split(os.sep)[0] for path in seen})
print(json.dumps({"code": code, "main": places(here), "all": places(here | threads)}))
"""


@pytest.mark.parametrize("entry", ["linear", "segment"])
def test_a_run_enters_few_top_level_places(entry, tmp_path, request):
    if entry == "linear":
        flags = ["--dataset", "eurosat", "--data_path", shared_world(5), "--model", "test_vit", "--weights", "random",
                 "--features", "cached", "--epochs", "1", "--batch_size", "16"]  # fmt: skip
    else:
        flags = ["--dataset", "dfc2020", "--data_path", request.getfixturevalue("tiles"), *FROZEN]
    words = [sys.executable, "-c", TRACED, REPOSITORY / "fgmae_bench", f"fgmae_bench.{entry}", *flags, *FOLDERS]
    done = subprocess.run(list(map(str, words)), cwd=tmp_path, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["code"] == 0, done.stderr
    assert len(found["main"]) <= AT_MOST, found["main"]
    assert len(found["all"]) <= AT_MOST, found["all"]
