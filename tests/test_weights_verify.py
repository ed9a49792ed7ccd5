"""`weights verify`: each way in which a checkpoint can be unfit is found in its column; `weights fetch` for names of
the user's own.
"""

import hashlib
import os

import pytest
import torch
from commands import call, refused
from hub_server import asked_hub, child
from preloaded import HANG
from test_weights_manifest import GOOD

from fgmae_bench.checkpoints.load import untrained
from fgmae_bench.config.run import Model
from fgmae_bench.models.build import build_backbone

FETCH_TINY = "from fgmae_bench.weights import fetch as command; command.main({'name': 'tiny', 'cache_dir': argv[0]})"


@pytest.fixture(scope="module")
def trained():
    """State dict of timm's smallest ViT at 32 px, every tensor random: nothing is as initialised."""
    vit = build_backbone(Model(model="test_vit", weights="random", input_size=32), 0).module.vit
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(tensor.shape, generator=generator) * 0.1 for name, tensor in vit.state_dict().items()}


@pytest.fixture
def place(tmp_path, monkeypatch, trained):
    """A folder with the user's manifest and the file `tiny.pth`."""
    (tmp_path / "weights.toml").write_text(GOOD)
    monkeypatch.setenv("FGMAE_BENCH_WEIGHTS", str(tmp_path / "weights.toml"))
    torch.save(trained, tmp_path / "tiny.pth")
    return tmp_path


@pytest.fixture
def hub(monkeypatch, place):
    with asked_hub(monkeypatch, "tiny.pth", (place / "tiny.pth").read_bytes()) as hub:
        yield hub


def command(*flags, cwd):
    return call("weights.__main__", *flags, cwd=cwd)


def verify(*flags, cwd):
    return command("verify", *flags, "--cache_dir", "cache", cwd=cwd)


def row(result, number=0):
    """Column -> value of a row of the table; the verdict is all that follows."""
    head, *rows = result.out.splitlines()
    starts = [head.index(word) for word in head.split()]
    ends = [*starts[1:], None]
    return {word: rows[number][a:b].strip() for word, a, b in zip(head.split(), starts, ends, strict=True)}


# --- fetch, verify, use


def test_a_name_of_the_users_is_fetched_verified_and_used(hub, place):
    got = command("fetch", "tiny", "--cache_dir", "cache", cwd=place)
    assert got.code == 0, got.err
    sent = hub.sent
    assert command("fetch", "tiny", "--cache_dir", "cache", cwd=place).out == got.out
    assert (hub.sent, len(hub.gets())) == (sent, 1)  # the second transfers nothing
    result = verify("tiny", cwd=place)
    assert result.code == 0
    found = row(result)
    assert {found[key] for key in ("exists", "hash", "opens", "layout", "keys", "trained")} == {"ok"}
    assert (found["verdict"], found["size"]) == ("fit", "unknown")
    assert verify(cwd=place).out == result.out  # without a name: all that is here
    backbone = build_backbone(Model(model="test_vit", weights="tiny"), 0, place / "cache")
    assert (backbone.contract.normalizer, backbone.contract.bands, backbone.contract.size) == (
        "zscore",
        ("VH", "VV"),
        32,
    )
    assert backbone.weights.source == "tiny"
    listed = command("list", "--cache_dir", "cache", cwd=place).out
    assert "tiny.pth" in listed.splitlines()[-1]


HUB_FAULTS = {
    "wrong bytes": (
        lambda hub: hub.forged.update({"owner/name/tiny.pth": b"x" * len(hub.files["owner/name/tiny.pth"])}),
        "wrong bytes came",
    ),
    "404": (lambda hub: hub.files.clear(), "the hub has no tiny.pth of owner/name at revision main (404)"),
    "429": (
        lambda hub: hub.answers.extend([("HEAD", 429, {"Retry-After": "3600"})]),
        "run the same command again in 3600 s",
    ),
    "cut": (lambda hub: setattr(hub, "cut_after", 1000), "run the same command again"),
}


@pytest.mark.parametrize("fault", HUB_FAULTS)
def test_a_hub_that_fails_is_one_line_and_no_file(hub, place, fault):
    misbehave, line = HUB_FAULTS[fault]
    misbehave(hub)
    result = command("fetch", "tiny", "--cache_dir", "cache", cwd=place)
    assert result.code == 2
    assert line in result.err.splitlines()[-1]
    assert not (place / "cache" / "weights" / "tiny" / "tiny.pth").exists()
    assert verify("tiny", cwd=place).code == 1


def test_a_full_disk_is_said(hub, place):
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000)); {FETCH_TINY}"
    process = child(hub, limited, place / "cache")
    _, err = process.communicate(timeout=HANG)
    assert process.returncode == 2
    assert "no space left while writing" in err.splitlines()[-1]


def test_a_mirror_folder_is_verified_as_a_download(hub, place):
    assert command("fetch", "tiny", "--from", ".", "--cache_dir", "cache", cwd=place).code == 0
    assert hub.sent == 0
    (place / "other").mkdir()
    (place / "other" / "tiny.pth").write_bytes(b"x")
    result = command("fetch", "tiny", "--from", "other", "--cache_dir", "cache2", cwd=place)
    assert (result.code, "wrong bytes" in result.err) == (2, True)


def test_a_fetched_file_that_was_changed_is_found(hub, place):
    command("fetch", "tiny", "--cache_dir", "cache", cwd=place)
    path = place / "cache" / "weights" / "tiny" / "tiny.pth"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    result = verify("tiny", cwd=place)
    assert result.code == 1
    assert (row(result)["exists"], row(result)["hash"]) == ("ok", "FAILED")
    assert "has changed since it was verified" in row(result)["verdict"]


# --- unfit files


def save(state, path):
    torch.save(state, path)


UNFIT = {
    "absent": (lambda s, p: None, "exists", "no such file"),
    "empty": (lambda s, p: p.write_bytes(b""), "opens", "is empty"),
    "cut": (lambda s, p: (save(s, p), p.write_bytes(p.read_bytes()[:-1000])), "opens", "cannot be read as a checkpoint"),
    "a page": (lambda s, p: p.write_text("<html>"), "opens", "is a text file"),
    "keys missing": (lambda s, p: save({k: v for k, v in s.items() if k != "norm.bias"}, p), "keys", "lacks 1 keys of the model: norm.bias"),
    "keys unknown": (lambda s, p: save(s | {"odd": torch.ones(1)}, p), "keys", "1 keys that the model does not know: odd"),
    "another shape": (lambda s, p: save(s | {"norm.bias": torch.ones(7)}, p), "keys", "norm.bias is (7,)"),
    "another width": (lambda s, p: save(s | {"patch_embed.proj.weight": torch.randn(32, 2, 16, 16)}, p), "keys", "is 32 wide"),
    "thirteen bands": (lambda s, p: save(s | {"patch_embed.proj.weight": torch.randn(64, 13, 16, 16)}, p), "keys", "takes 13 channels, the model 2"),
    "NaN": (lambda s, p: save(s | {"norm.bias": torch.full((64,), torch.nan)}, p), "keys", "norm.bias holds NaN or infinity"),
    "infinity": (lambda s, p: save(s | {"norm.bias": torch.full((64,), torch.inf)}, p), "keys", "norm.bias holds NaN or infinity"),
    "untrained": (
        lambda s, p: save(build_backbone(Model(model="test_vit", weights="random", input_size=32), 0).module.vit.state_dict(), p),
        "trained", "normalisation layers are as initialised",
    ),
    "a matrix of zeros": (
        lambda s, p: save(s | {"blocks.0.mlp.fc1.weight": torch.zeros_like(s["blocks.0.mlp.fc1.weight"])}, p),
        "trained", "blocks.0.mlp.fc1.weight holds the number 0 throughout",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNFIT)
def test_each_defect_is_found_in_its_column(place, trained, kind):
    write, column, text = UNFIT[kind]
    write(trained, place / "w.pth")
    result = verify("./w.pth", "--model", "test_vit", cwd=place)
    assert result.code == 1
    assert result.err == "error: 1 of 1 checkpoints are not fit; see the table\n"
    found = row(result)
    assert found[column] == "FAILED"
    assert text in found["verdict"]


def test_a_file_that_would_execute_code_is_not_opened(place, capsys):
    class Evil:
        def __reduce__(self):
            return print, ("executed",)

    torch.save({"model": Evil()}, place / "w.pth")
    result = verify("./w.pth", cwd=place)
    assert (row(result)["opens"], "executed" in result.out + result.err) == ("FAILED", False)


def test_layout_size_and_hash_are_those_of_the_manifest(place):
    digest, size = hashlib.sha256((place / "tiny.pth").read_bytes()).hexdigest(), (place / "tiny.pth").stat().st_size
    for line, column, outcome in (
        (f"size = {size}", "size", "ok"),
        (f"size = {size + 1}", "size", "FAILED"),
        (f"about_mb = {size / 1e6 * 1.01}", "size", "ok"),
        (f"about_mb = {size / 1e6 * 1.05}", "size", "FAILED"),
        (f'sha256 = "{digest}"', "hash", "ok"),
        (f'sha256 = "{"0" * 64}"', "hash", "FAILED"),
        ("", "hash", "unknown"),
    ):
        (place / "weights.toml").write_text(f"{GOOD}{line}\n")
        result = verify("./tiny.pth", cwd=place)
        assert (row(result)[column], result.code) == (outcome, int(outcome == "FAILED")), line
    (place / "weights.toml").write_text(GOOD.replace('"encoder"', '"full"'))
    assert "its layout is encoder instead of full" in row(verify("./tiny.pth", cwd=place))["verdict"]


def test_digits_in_the_name_are_held_against_the_content(place):
    digest = hashlib.sha256((place / "tiny.pth").read_bytes()).hexdigest()
    for name, outcome in ((f"a-{digest[:8]}.pth", "ok"), ("a-deadbeef.pth", "FAILED")):
        os.link(place / "tiny.pth", place / name)
        assert row(verify(name, cwd=place))["hash"] == outcome


# --- lists


def test_a_list_for_a_server(hub, place):
    command("fetch", "tiny", "--cache_dir", "cache", cwd=place)
    (place / "list").write_text(
        "# what the job needs\ntiny\n./tiny.pth model=test_vit  # by path\n\nfgmae model=vit_small_patch16\n"
    )
    result = verify("--required", "list", cwd=place)
    assert result.code == 1
    assert result.err == "error: 1 of 3 checkpoints are not fit; see the table\n"
    assert [row(result, k)["verdict"] for k in range(2)] == ["fit", "fit"]
    assert (
        "not fetched: python -m fgmae_bench.weights fetch fgmae --model vit_small_patch16" in row(result, 2)["verdict"]
    )
    (place / "list").write_text("tiny\n")
    assert verify("--required", "list", cwd=place).code == 0


LISTS = {
    "an unknown name": ("tiny\nfgmea\n", "list:2: 'fgmea' is neither known weights nor a file; did you mean 'fgmae'?"),
    "several models": ("fgmae\n", "list:1: fgmae is for several models; add the model: vit_base_patch16"),
    "an unknown fact": ("tiny modell=x\n", "list:1: 'modell=x' is not a fact of a checkpoint"),
    "a short hash": ("tiny sha256=abc\n", "list:1: sha256 is 'abc'"),
    "an open quote": ("'tiny\n", "list:1: No closing quotation"),
    "nothing": ("# nothing\n", "list names no checkpoint"),
}


@pytest.mark.parametrize("what", LISTS)
def test_a_list_that_cannot_be_is_refused(place, what):
    text, line = LISTS[what]
    (place / "list").write_text(text)
    assert line in refused("--required", "list", cwd=place, run=verify)


def test_a_list_that_is_not_there(place):
    assert "absent cannot be read" in refused("--required", "absent", cwd=place, run=verify)
    assert "no published weights are in" in refused(cwd=place, run=verify)
    assert "give one of them" in refused("tiny", "--required", "x", cwd=place, run=verify)


# --- the criterion of training


def test_what_counts_as_untrained():
    fresh = {"norm.weight": torch.ones(4), "norm.bias": torch.zeros(4), "fc.weight": torch.randn(4, 4)}
    assert "all 1 normalisation layers" in untrained(fresh)
    assert untrained(fresh | {"norm.bias": torch.full((4,), 1e-7)}) is None
    assert untrained(fresh | {"norm.weight": torch.tensor([1, 1, 1, 1.001])}) is None
    zero_last = {"bn3.weight": torch.zeros(4), "bn3.bias": torch.zeros(4)}
    assert "all 2 normalisation layers" in untrained(fresh | zero_last)
    assert untrained({"fc.weight": torch.randn(3, 3)}) is None
    assert "fc.weight holds the number 0.5" in untrained({"fc.weight": torch.full((3, 3), 0.5)})


@pytest.mark.parametrize("model", ["test_vit", "test_resnet", "resnet18"])
def test_fresh_models_of_timm_are_untrained_and_one_step_trains_them(model):
    import timm

    network = timm.create_model(model, in_chans=2, num_classes=3)
    assert untrained(network.state_dict())
    network.train()
    network(torch.randn(4, 2, 160, 160)).square().sum().backward()
    torch.optim.SGD(network.parameters(), lr=1e-3).step()
    assert untrained(network.state_dict()) is None
