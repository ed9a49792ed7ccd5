"""Packs of the small synthetic EuroSAT, a look inside them by plain lmdb, copies to be spoilt, and the check against
their source.

A test file takes the fixtures with `pytest_plugins = ("pack_files",)`.
"""

import shutil
import tempfile
from pathlib import Path

import lmdb
import pytest

from fgmae_bench.config.contract import FGMAE_CONTRACT
from fgmae_bench.data.packs.check import check_source, check_values
from fgmae_bench.data.packs.format import META
from fgmae_bench.data.packs.read import parse_meta
from fgmae_bench.data.packs.store import get, stamp_of
from fgmae_bench.data.packs.write import write_pack
from fgmae_bench.views.classification import make_view


@pytest.fixture(scope="module")
def view(card):
    return make_view(card, FGMAE_CONTRACT, None)


@pytest.fixture(scope="module")
def packs(card, index, view, tmp_path_factory):
    """Folder with `float32.lmdb` and `uint8.lmdb` of the small world; not to be changed."""
    root = tmp_path_factory.mktemp("packs")
    write_pack(card, index, root / "float32.lmdb")
    write_pack(card, index, root / "uint8.lmdb", view=view)
    return root


def entries(pack):
    """Everything in a pack, by plain lmdb; of a copy, as this process may have the pack itself open."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(pack / "data.mdb", folder)
        with lmdb.open(folder, readonly=True, lock=False) as environment, environment.begin() as reading:
            return {key.decode(): value for key, value in reading.cursor()}


def copied(pack, tmp_path):
    return Path(shutil.copytree(pack, tmp_path / "copy.lmdb"))


def changed(pack, tmp_path, key, value):
    """A copy of a pack with another value, or without it."""
    copy = copied(pack, tmp_path)
    with lmdb.open(str(copy), lock=False, map_size=1 << 30) as environment, environment.begin(write=True) as writing:
        writing.delete(key) if value is None else writing.put(key, value)
    return copy


def meta_of(pack):
    return parse_meta(get(pack.resolve(), stamp_of(pack), META), pack)


def verify(card, pack, source):
    meta = meta_of(pack)
    check_source(card, check_values(card, pack, meta, lambda n: None), meta, source, 0, lambda n: None)
