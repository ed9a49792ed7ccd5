"""`prepare download` of what stands at addresses of its own: single files that are pinned, archives with a checksum.

The server is that of `hub_server`, asked by address as any other server would be.
"""

import argparse
import hashlib
import io
import os
import shlex
import tarfile

import pytest
from commands import REPOSITORY
from hub_server import CONTENT, SHA256, SIZE, error_of, names

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.run import Data
from fgmae_bench.data.layouts import build_index
from fgmae_bench.data.splits import PARTS, make_split
from fgmae_bench.hub.checksums import read_pins
from fgmae_bench.hub.fetch import HubFile, WebFile, fetch
from fgmae_bench.prepare import download
from fgmae_bench.worlds.bigearthnet import write_bigearthnet

pytest_plugins = ("hub_server", "dataset_worlds")
AT = "owner/name/resolve/main"  # where the server keeps what it calls owner/name/...
PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"
LAYERS = ("S1Hand", "LabelHand", "JRCWaterHand")


def md5_of(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def web(hub, name="weights.pth", where="storage"):
    return WebFile(url=f"{hub.storage if where == 'storage' else hub.url}/{AT}/{name}")


# --- one file


def test_a_file_at_an_address_is_whole_and_pinned_and_then_asked_for_no_more(hub, target, caplog):
    fetched = fetch(web(hub), target, size=SIZE)
    assert (fetched.sha256, fetched.transferred, fetched.commit) == (SHA256, SIZE, None)
    assert target.read_bytes() == CONTENT
    assert read_pins(target.parent / "sha256.lock.toml") == {web(hub).url: SHA256}
    assert "nothing vouches for http://127.0.0.1" in caplog.text
    hub.asked.clear()
    assert fetch(web(hub), target).transferred == 0
    assert hub.asked == []


@pytest.mark.parametrize("where", ["hub", "storage"])
def test_no_token_goes_to_an_address_and_no_etag_of_it_vouches(hub, target, monkeypatch, where):
    """The same server asked as a hub gets the token, and its etag refuses these bytes."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.forged["owner/name/weights.pth"] = forged = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    assert fetch(web(hub, where=where), target).sha256 == hashlib.sha256(forged).hexdigest()
    assert {headers.get("authorization") for _, _, headers in hub.asked} == {None}


def test_a_cut_download_goes_on_where_it_stopped(hub, target):
    hub.cut_after = 1_000_000
    assert "after 1000000 of 3000000 bytes" in error_of(lambda: fetch(web(hub), target))
    hub.cut_after = None
    assert fetch(web(hub), target).transferred == SIZE - 1_000_000
    assert hub.gets()[-1]["range"] == "bytes=1000000-"
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_web_page_is_neither_kept_nor_pinned(hub, target, method):
    hub.body, hub.answers = PAGE, [(method, 200, {"Content-Type": "text/html"})]
    assert "answers for weights.pth with a web page" in error_of(lambda: fetch(web(hub), target))
    assert names(target) == []
    hub.files["owner/name/a.tif"] = PAGE
    line = error_of(lambda: fetch(web(hub, "a.tif"), target.with_name("a.tif")))
    assert "it is a web page; nothing was kept or pinned" in line
    assert names(target) == []


def test_another_size_or_md5_than_stated_is_neither_kept_nor_pinned(hub, target):
    assert f"has {SIZE} bytes, 7 are expected" in error_of(lambda: fetch(web(hub), target, size=7))
    assert hub.gets() == []
    line = error_of(lambda: fetch(web(hub), target, md5="0" * 32))
    assert f"weights.pth has the MD5 {md5_of(CONTENT)}, its card states {'0' * 32}" in line
    assert names(target) == []
    assert fetch(web(hub), target, md5=md5_of(CONTENT)).sha256 == SHA256


def test_a_stated_md5_vouches_and_is_held_against_a_file_that_is_there_too(hub, target, caplog):
    fetch(web(hub), target, md5=md5_of(CONTENT))
    assert "nothing vouches" not in caplog.text
    assert "its card states" in error_of(lambda: fetch(web(hub), target, md5="1" * 32))
    assert names(target) == ["sha256.lock.toml"]


@pytest.mark.parametrize(("status", "says"), [(404, "has no"), (403, "refuses"), (410, "answers 410 for")])
def test_a_refusal_names_the_server_and_the_address_not_the_hub(hub, target, status, says):
    hub.answers = [("HEAD", status, {})]
    line = error_of(lambda: fetch(web(hub), target))
    assert f"{hub.storage.removeprefix('http://')} {says} {web(hub).url}" in line
    assert "the address on the card" in line
    assert "the hub" not in line


# --- files that the lists of a card name


@pytest.fixture
def floods(hub, worlds, tmp_path):
    """A card like Sen1Floods11's, lists beside it, whose files are those of a world; returns the card's path."""
    root = worlds("sen1floods11")
    found = {layer: {path.name: path for path in root.rglob(f"*_{layer}.tif")} for layer in LAYERS}
    chips = sorted(name.removesuffix("_S1Hand.tif") for name in found["S1Hand"])
    parts, folder = (
        {"train": chips[:4], "valid": chips[4:6], "test": chips[6:8], "bolivia": chips[8:9]},
        tmp_path / "card",
    )
    for layer in LAYERS:
        for chip in chips[:9]:
            hub.files[f"owner/name/{layer}/{chip}_{layer}.tif"] = found[layer][f"{chip}_{layer}.tif"].read_bytes()
    folder.mkdir()
    for part, listed in parts.items():
        lines = "".join(f"{chip}_S1Hand.tif,{chip}_LabelHand.tif\n" for chip in listed)
        (folder / f"flood_{part}_data.csv").write_text(lines)
    text = (REPOSITORY / "datasets" / "sen1floods11" / "card.toml").read_text()
    text = text.replace('name = "sen1floods11"', 'name = "my_floods"', 1)
    text = text.replace(load_card("sen1floods11").download.url, f"{hub.storage}/{AT}")
    (folder / "card.toml").write_text(text)
    return folder / "card.toml", parts


def get(card, data):
    download.main({"dataset": str(card), "data_path": str(data)})


def test_listed_files_become_data_with_their_splits(hub, floods, tmp_path, capsys, caplog):
    path, parts = floods
    data = tmp_path / "in" / "data"
    get(path, data)
    total = len(hub.files) - 1  # the server has another file besides
    assert total == 3 * sum(map(len, parts.values()))
    out = capsys.readouterr().out
    assert f"{total} files: {sum(map(len, hub.files.values())) - SIZE} bytes transferred" in out
    assert "prepare inspect" in out
    assert caplog.text.count("nothing vouches") == 1
    assert sorted(os.listdir(tmp_path / "in")) == ["data", "sha256.lock.toml"]
    assert len(read_pins(tmp_path / "in" / "sha256.lock.toml")) == total
    there = {f"owner/name/{file.parent.name}/{file.name}": file.read_bytes() for file in data.rglob("*.*")}
    assert there == {name: content for name, content in hub.files.items() if content is not CONTENT}
    card = load_card(str(path))
    made = make_split(card, build_index(card, data), Data(dataset="my_floods", split="official"), tmp_path)
    assert [len(getattr(made, part)) for part in PARTS] == [len(parts[part]) for part in ("train", "valid", "test")]


def test_listed_files_that_are_there_are_not_asked_for_again(hub, floods, tmp_path):
    path, _ = floods
    missing = sorted(name for name in hub.files if "JRCWaterHand" in name)[-1]
    content = hub.files.pop(missing)
    assert f"has no {hub.storage}/{AT}/{missing.removeprefix('owner/name/')}" in error_of(
        lambda: get(path, tmp_path / "data")
    )
    assert not (tmp_path / "data").exists()
    before = len(hub.gets())
    assert before > 5
    hub.files[missing] = content
    hub.asked.clear()
    get(path, tmp_path / "data")
    assert before + len(hub.gets()) == len(hub.files) - 1
    assert sorted(os.listdir(tmp_path)) == ["card", "data", "sha256.lock.toml"]


def test_a_listed_file_that_is_another_than_at_first_is_refused(hub, floods, tmp_path):
    path, parts = floods
    get(path, tmp_path / "data")
    (tmp_path / "data").rename(tmp_path / "old")
    name = f"owner/name/LabelHand/{parts['train'][0]}_LabelHand.tif"
    hub.files[name] = hub.files[name][:-1] + b"x"
    line = error_of(lambda: get(path, tmp_path / "data"))
    assert "wrong bytes came" in line
    command = f"python -m fgmae_bench.prepare download {path} --data_path {tmp_path / 'data'} --repin"
    assert line.endswith(
        f"where it stays so, the source holds other content; {command} trusts that in place of what is pinned"
    )
    assert "weights" not in line.partition(";")[2]
    assert not (tmp_path / "data").exists()


def test_the_command_that_is_named_replaces_the_pin_alone_that_changed_and_goes_on(hub, floods, tmp_path, caplog):
    """What is here as it is pinned is not fetched again; both digests of what has changed are said."""
    path, parts = floods
    get(path, tmp_path / "data")
    (tmp_path / "data").rename(tmp_path / "old")
    pins = tmp_path / "sha256.lock.toml"
    name, before = f"owner/name/LabelHand/{parts['test'][0]}_LabelHand.tif", read_pins(pins)
    hub.files[name] = hub.files[name][:-1] + bytes([hub.files[name][-1] ^ 1])
    arguments = shlex.split(error_of(lambda: get(path, tmp_path / "data")).rpartition("; ")[2].partition(" trusts")[0])
    parser = argparse.ArgumentParser()
    download.add_flags(parser)
    hub.asked.clear()
    caplog.clear()
    download.main(vars(parser.parse_args(arguments[arguments.index("download") + 1 :])))
    after = read_pins(pins)
    (changed,) = (source for source in before if before[source] != after[source])
    assert changed.endswith(name.removeprefix("owner/name/"))
    assert after.keys() == before.keys()
    assert f"was SHA-256 {before[changed]} and is now {after[changed]}" in caplog.text
    assert 0 < len(hub.gets()) < len(before)
    assert (tmp_path / "data" / "LabelHand" / name.rpartition("/")[2]).read_bytes() == hub.files[name]


def test_a_page_and_a_stated_md5_replace_no_pin(hub, floods, bigearthnet, tmp_path):
    path, parts = floods
    data = tmp_path / "a" / "data"
    get(path, data)
    data.rename(tmp_path / "a" / "old")
    held = read_pins(tmp_path / "a" / "sha256.lock.toml")
    hub.files[f"owner/name/S1Hand/{parts['train'][0]}_S1Hand.tif"] = PAGE
    again = {"dataset": str(path), "data_path": str(data), "repin": True}
    assert "it is a web page; nothing was kept or pinned" in error_of(lambda: download.main(again))
    assert read_pins(tmp_path / "a" / "sha256.lock.toml") == held
    hub.files["owner/name/patches.tar.gz"] += b"x"
    again = {"dataset": str(bigearthnet), "data_path": str(tmp_path / "b" / "raw"), "repin": True}
    assert "has the MD5" in error_of(lambda: download.main(again))


def test_where_no_pin_is_in_doubt_no_command_that_replaces_one_is_named(hub, target):
    hub.lfs = True
    source = HubFile(repo="owner/name", file="weights.pth", revision="0" * 40)
    line = error_of(lambda: fetch(source, target, sha256="0" * 64, repin_with="python -m x --repin"))
    assert "the SHA-256 is in doubt" in line
    assert "repin" not in line


def test_without_a_network_nothing_is_left(floods, tmp_path):
    path, _ = floods
    text = path.read_text()
    at = text.index('url = "http://127')
    path.write_text(text[:at] + 'url = "http://127.0.0.1:9/x"' + text[text.index("\n", at) :])
    assert "cannot be reached" in error_of(lambda: get(path, tmp_path / "new" / "data"))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("line", ["../../x_S1Hand.tif", "/etc/x_S1Hand.tif", "a b_S1Hand.tif", "a\\b_S1Hand.tif", "?x"])
def test_a_list_that_names_no_plain_file_is_refused_before_anything_is_asked(hub, floods, tmp_path, line):
    path, _ = floods
    (path.parent / "flood_valid_data.csv").write_text(f"{line},x\n")
    refusal = error_of(lambda: get(path, tmp_path / "data"))
    assert "flood_valid_data.csv: line 1 begins with" in refusal
    assert hub.asked == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("https://", "http://"), "is not an address"),
        (("https://", "https://me:secret@"), "is not an address"),
        (("https://", "file:///"), "is not an address"),
        (('each = ["S1Hand', 'md5 = "00"\neach = ["S1Hand'), "md5 '00'"),
        (('each = ["S1Hand', f'md5 = "{"0" * 32}"\neach = ["S1Hand'), "with what is said of one archive"),
        (('each = ["S1Hand/', 'each = ["../'), "download.each: '../"),
        (('each = ["S1Hand/{id}', 'each = ["S1Hand/'), "with {id}"),
        (('each = ["S1Hand', 'repo = "a/b"\nfile = "c.zip"\neach = ["S1Hand'), "names no source, or two"),
        (('each = ["S1Hand', 'repo = "a/b"\neach = ["S1Hand'), "give both"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_card_that_says_no_safe_source_is_refused(tmp_path, change, says):
    text = (REPOSITORY / "datasets" / "sen1floods11" / "card.toml").read_text()
    head, tail = text.split("[download]")
    (tmp_path / "card.toml").write_text(f"{head}[download]{tail.replace(*change, 1)}")
    assert says in error_of(lambda: load_card(str(tmp_path / "card.toml")))


# --- an archive with its checksum, and lists


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    """A synthetic BigEarthNet-S1 as a .tar.gz."""
    folder = tmp_path_factory.mktemp("patches") / "BigEarthNet-S1-v1.0"
    write_bigearthnet(folder, patches=30)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        archive.add(folder, folder.name)
    return stream.getvalue(), sorted(path.name for path in folder.iterdir() if path.is_dir())


@pytest.fixture
def bigearthnet(hub, patches, tmp_path):
    """A card like BigEarthNet's whose archive is that of a world and whose lists are on the same server."""
    content, found = patches
    hub.files["owner/name/patches.tar.gz"] = content
    text = (REPOSITORY / "datasets" / "bigearthnet" / "card.toml").read_text()
    held = load_card("bigearthnet").download
    text = text.replace(held.url, f"{hub.storage}/{AT}/patches.tar.gz").replace(held.md5, md5_of(content))
    for each in held.lists:
        name = each.url.rpartition("/")[2]
        hub.files[f"owner/name/{name}"] = listed = f"{found[len(name)]}\n".encode()
        text = text.replace(each.url, f"{hub.storage}/{AT}/{name}").replace(each.md5, md5_of(listed))
    (tmp_path / "card.toml").write_text(text.replace('name = "bigearthnet"', 'name = "my_patches"', 1))
    return tmp_path / "card.toml"


def test_an_archive_at_an_address_is_verified_and_unpacked_with_its_lists_beside(
    bigearthnet, patches, tmp_path, capsys, caplog
):
    data = tmp_path / "in" / "raw"
    get(bigearthnet, data)
    assert sorted(path.name for path in (data / "BigEarthNet-S1-v1.0").iterdir() if path.is_dir()) == patches[1]
    there = {"raw", "train.csv", "val.csv", "test.csv"}
    assert there <= set(os.listdir(tmp_path / "in"))
    assert "patches.tar.gz" not in os.listdir(tmp_path / "in")
    assert "prepare index" in capsys.readouterr().out
    assert "nothing vouches" not in caplog.text


@pytest.mark.parametrize("wrong", ["patches.tar.gz", "val.csv"])
def test_a_wrong_md5_leaves_no_data(hub, bigearthnet, tmp_path, wrong):
    name = f"owner/name/{wrong}"
    hub.files[name] = hub.files[name][:-1] + b"x"
    line = error_of(lambda: get(bigearthnet, tmp_path / "in" / "raw"))
    assert f"{wrong} has the MD5 {md5_of(hub.files[name])}, its card states" in line
    assert not (tmp_path / "in" / "raw").exists()
    assert wrong not in os.listdir(tmp_path / "in")
    assert not any(wrong in source for source in read_pins(tmp_path / "in" / "sha256.lock.toml"))
