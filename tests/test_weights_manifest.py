"""The manifest of checkpoints: every shipped entry has a contract and a model; a user's file is read strictly, an entry
without one refused.
"""

import pytest
import timm
from commands import call, said
from tiny_checkpoints import weights_manifest

from fgmae_bench.checkpoints.manifest import SHIPPED, read_manifest
from fgmae_bench.checkpoints.registry import WEIGHTS, by_file, published, registered
from fgmae_bench.config.contract import FGMAE_CONTRACT
from fgmae_bench.config.encoders import adapter_of
from fgmae_bench.errors import BenchError
from fgmae_bench.hub.checksums import name_hash
from fgmae_bench.models.build import FGMAE_ARCHITECTURES, TORCHGEO_ARCHITECTURES

GOOD = weights_manifest("tiny", file="tiny.pth", more='repo = "owner/name"\nrevision = "main"')


@pytest.fixture
def manifest(tmp_path, monkeypatch):
    path = tmp_path / "weights.toml"
    path.write_text(GOOD)
    monkeypatch.setenv("FGMAE_BENCH_WEIGHTS", str(path))
    return path


def error_of(work):
    with pytest.raises(BenchError) as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value)


SHIPPED_ENTRIES = read_manifest(SHIPPED, {}).weights


@pytest.mark.parametrize("entry", SHIPPED_ENTRIES, ids=lambda entry: f"{entry.name}-{entry.model}")
def test_each_shipped_entry_names_a_model_a_source_and_a_contract(entry):
    timm_name = FGMAE_ARCHITECTURES.get(entry.model, entry.model)
    assert timm.is_model(timm_name) or adapter_of(entry.model)
    assert len(entry.revision) == 40 or entry.revision == "main"  # not known: pinned on first use
    assert entry.licence
    assert entry.data
    contract = published(entry.name, entry.model).contract
    assert contract.size % 8 == 0
    assert contract.bands == (("VH", "VV") if entry.name.startswith("satlas") else ("VV", "VH"))


@pytest.mark.parametrize("entry", SHIPPED_ENTRIES, ids=lambda entry: f"{entry.name}-{entry.model}")
def test_a_stated_sha256_begins_as_the_name_says_and_a_size_is_stated_once(entry):
    digits = name_hash(entry.file)
    assert not (entry.sha256 and digits) or entry.sha256.startswith(digits)
    assert entry.size is None or entry.about_mb is None
    assert sum(1 for other in SHIPPED_ENTRIES if entry.sha256 and other.sha256 == entry.sha256) <= 1


def test_the_checkpoints_of_the_issue_are_all_there():
    vits = {"vit_small_patch16", "vit_base_patch16", "vit_large_patch16", "vit_huge_patch14"}
    for name in ("fgmae", "fgmae-full", "ssl4eo-mae", "ssl4eo-mae-full"):
        assert set(WEIGHTS[name]) == vits
    assert set(WEIGHTS["softcon"]) == {"vit_small_patch14_dinov2", "vit_base_patch14_dinov2", "resnet50"}
    for name in ("ssl4eo-moco", "ssl4eo-moco-full", "decur", "closp"):
        assert "resnet50" in WEIGHTS[name]


def test_weights_of_the_fgmae_family_have_its_contract_not_a_librarys_z_score():
    for name in ("fgmae", "fgmae-full", "ssl4eo-mae", "ssl4eo-mae-full", "softcon-quantile"):
        assert all(entry.contract == FGMAE_CONTRACT for entry in WEIGHTS[name].values())


def test_a_published_file_is_known_by_its_name(tmp_path):
    assert by_file(tmp_path / "B2_vits16_fgmae_ep99.pth").entry.name == "fgmae-full"
    assert by_file(tmp_path / "mine.pth") is None


def test_the_users_file_adds_and_overrides(manifest):
    assert "tiny" not in WEIGHTS
    assert list(registered()) == [*WEIGHTS, "tiny"]
    entry = published("tiny", "test_vit")
    assert (entry.contract.bands, entry.contract.normalizer, entry.contract.size) == (("VH", "VV"), "zscore", 32)
    manifest.write_text(
        GOOD.replace('name = "tiny"\nmodel = "test_vit"', 'name = "fgmae"\nmodel = "vit_small_patch16"')
    )
    assert published("fgmae", "vit_small_patch16").hub.file == "tiny.pth"
    assert published("fgmae", "vit_base_patch16").hub.file == "B2_vitb16_fgmae_ep99_enc.pth"


def test_the_users_entry_may_name_a_shipped_contract(manifest):
    manifest.write_text(GOOD.replace('contract = "mine"', 'contract = "fgmae"'))
    assert published("tiny", "test_vit").contract == FGMAE_CONTRACT


MISTAKES = {
    "no contract": ('contract = "mine"\n', "", "weights[0] (tiny) states no input contract; name one"),
    "unknown contract": ('contract = "mine"', 'contract = "mein"', "unknown contract 'mein'; did you mean 'mine'?"),
    "unknown key": ("revision =", "rivision =", "unknown key 'rivision'"),
    "missing key": ('file = "tiny.pth"\n', "", "key 'file' is missing"),
    "unknown layout": ('layout = "encoder"', 'layout = "encodr"', "did you mean 'encoder'?"),
    "unknown normaliser": ('"zscore"', '"zsore"', "unknown normalizer 'zsore'; did you mean 'zscore'"),
    "one band": ('["VH", "VV"]', '["VH"]', "bands are VH; give VV and VH"),
    "three means": ("[-20.0, -12.0]", "[-20.0, -12.0, 0.0]", "mean and std do not fit"),
    "no spread": ("[6.0, 5.0]", "[6.0, 0.0]", "mean and std do not fit"),
    "no size": ("size = 32", "size = 0", "size is 0"),
    "short hash": ('data = "noise"', 'data = "noise"\nsha256 = "abc"', "sha256 is 'abc'; give 64"),
    "a way out": ('file = "tiny.pth"', 'file = "../../tiny.pth"', "give the file's path inside its repository"),
    "random": ('name = "tiny"', 'name = "random"', "random, imagenet and module are taken"),
    "a name with a way out": ('name = "tiny"', 'name = "../x"', "give letters, digits"),
    "unknown model": ('model = "test_vit"', 'model = "vit_smal_patch16"', "weights[0] (tiny): unknown model 'vit_smal_patch16'; did you mean 'vit_small_patch16'? choose from"),
    "unknown model of timm": ('model = "test_vit"', 'model = "resnet5o"', "unknown model 'resnet5o'; did you mean 'resnet50'? choose from"),
    "a model that loads no weights": ('model = "test_vit"', 'model = "my.module:make"', "unknown model 'my.module:make'; "),
    "no TOML": ("[[weights]]", "[[weights]", "not valid TOML"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_its_place(manifest, mistake):
    old, new, cause = MISTAKES[mistake]
    assert old in GOOD
    manifest.write_text(GOOD.replace(old, new, 1))
    line = error_of(registered)
    assert line.startswith(str(manifest))
    assert cause in line


@pytest.mark.parametrize("model", [*FGMAE_ARCHITECTURES, *TORCHGEO_ARCHITECTURES, "resnet50", "convnext_tiny"])
def test_every_model_that_a_run_takes_may_have_an_entry(manifest, model):
    manifest.write_text(GOOD.replace('model = "test_vit"', f'model = "{model}"'))
    assert published("tiny", model).entry.model == model


def test_a_repeated_entry_is_refused(manifest):
    manifest.write_text(GOOD + GOOD[GOOD.index("[[weights]]") :])
    assert "weights[1] repeats tiny for test_vit" in error_of(registered)


def test_a_manifest_that_is_not_there_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("FGMAE_BENCH_WEIGHTS", str(tmp_path / "absent.toml"))
    assert "absent.toml, which is not there; correct or unset it" in error_of(registered)
    result = call("weights.__main__", "list", cwd=tmp_path)
    assert "FGMAE_BENCH_WEIGHTS" in said(result)
