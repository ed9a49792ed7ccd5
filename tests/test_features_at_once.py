"""The bank filled by several processes and threads at once, and how much of it is in memory."""

import dataclasses
import os
import threading
import time

import numpy as np
import preloaded
import pytest
from preloaded import HANG, wait_until
from tiny_bank import Tiny, banks, features_by_hand, fill, make_extractor

from fgmae_bench.data.raster import read_chip
from fgmae_bench.errors import BenchError
from fgmae_bench.features import bank
from fgmae_bench.features.extract import Spent, extract
from fgmae_bench.system.distributed import World

pytest_plugins = ("tiny_bank",)

CHILD = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import numpy as np
from fgmae_bench.config.cards import load_card
from tiny_bank import Tiny, fill, make_extractor
cache = Path(sys.argv[3])
extractor = make_extractor(load_card("eurosat"), Path(sys.argv[2]), cache, Tiny(delay=0.03))
(cache / "ready").write_text("")
while not (cache / "go").exists():
    time.sleep(0.005)
print(fill(extractor, np.arange(119, -1, -1), cache)[1])
"""


@pytest.mark.slow
def test_two_processes_that_fill_one_bank_at_once_share_the_work(card, world, cache):
    """Both want all rows, in opposite orders: each row is computed once, by one of them, and the bank is whole."""
    cache.mkdir()
    here = os.path.dirname(__file__)
    child = preloaded.Process(["-c", CHILD, here, world, cache])
    try:
        made = make_extractor(card, world, cache, Tiny(delay=0.03))
        wait_until((cache / "ready").exists, child)
        (cache / "go").write_text("")
        bank, ours, _ = fill(made, np.arange(120), cache)
        out, errors = child.communicate(HANG)
    finally:
        child.kill()
    assert child.returncode == 0, errors
    assert ours + int(out) == 120
    np.testing.assert_allclose(bank.features, features_by_hand(made, range(120)), atol=1e-6)
    marks = bank.marks.copy()
    bank.forget(made.dataset.index.stamps)
    np.testing.assert_array_equal(bank.marks, marks)
    assert fill(made, np.arange(120), cache)[1] == 0


def test_a_bank_that_fails_takes_back_its_own_and_not_that_of_who_waited(tmp_path, monkeypatch):
    """Between the failure of one and its cleaning up, the other must not begin."""
    genuine, folder, log = bank._holds_rows, tmp_path / "features" / "key", []
    monkeypatch.setattr(bank, "_holds_rows", lambda place: (log.append("looks"), time.sleep(0.5), genuine(place))[-1])

    def waits():
        with bank._writing(folder, World()):
            log.append("begins")
            np.array([1], np.uint32).tofile(folder / "marks.u32")

    other = threading.Thread(target=waits)
    with pytest.raises(BenchError, match="spoilt"), bank._writing(folder, World()):  # noqa: PT012
        other.start()
        time.sleep(0.2)
        raise BenchError("spoilt", "mend it")
    other.join()
    assert log == ["looks", "begins"]
    assert (folder / "marks.u32").exists()


def test_threads_that_fill_one_bank_at_once_share_the_work(card, world, cache):
    extractors = [make_extractor(card, world, cache, Tiny(delay=0.01)) for _ in range(3)]
    counts = []
    threads = [
        threading.Thread(target=lambda made=made: counts.append(fill(made, np.arange(120), cache)[1]))
        for made in extractors
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG)
    assert sorted(counts) == [0, 0, 120]


def test_reading_stays_a_few_batches_ahead(extractor):
    """Memory does not grow with the number of rows: behind a slow backbone reading waits."""
    index, read = extractor.dataset.index, []
    long = dataclasses.replace(
        index,
        files=index.files * 4,
        labels=np.tile(index.labels, 4),
        stamps=np.tile(index.stamps, 4),
        reader=lambda path, card: read.append(path) or read_chip(path, card),
    )
    made = dataclasses.replace(extractor, dataset=dataclasses.replace(extractor.dataset, index=long))
    batches = extract(made, np.arange(480), None, Spent())
    next(batches)
    wait_until(lambda: len(read) >= 2 * 32)
    before = -1
    while before != len(read):  # until the readers rest
        before = len(read)
        time.sleep(0.2)
    assert len(read) <= 6 * 32
    assert 1 + sum(1 for _ in batches) == 15
    assert len(read) == 480


def test_features_lie_in_a_file_and_not_in_memory(extractor, cache):
    bank, _, _ = fill(extractor, np.arange(40), cache)
    stored = np.fromfile(cache / "features" / banks(cache)[0] / "features.f32", np.float32).reshape(120, 6)
    assert isinstance(bank.features, np.memmap)
    np.testing.assert_array_equal(stored, bank.features)
    assert not stored[40:].any()
