"""Every name of the registry has a test whose expected output comes from outside this repository."""

import ast
import re
from pathlib import Path

import pytest
from make_records import make_record, resealed

from fgmae_bench.checkpoints.registry import WEIGHTS
from fgmae_bench.config.encoders import ENCODERS
from fgmae_bench.config.experiments import load_experiment, may_fill

TESTS = Path(__file__).parent
EXPERIMENTS = TESTS.parent / "experiments"
# Names -> (file, test, where what it expects comes from). A name takes the first row that fits.
EVIDENCE = {
    r"galileo-nano|presto": (
        "test_encoders",
        "test_genuine_weights_give_their_publishers_features",
        "features that the publishers' code gave of genuine chips with the genuine weights",
    ),
    r"galileo-.*|olmoearth-.*": (
        "test_encoders",
        "test_encoders_give_what_their_libraries_own_call_gives",
        "the call of rslearn's class or of olmoearth-pretrain-minimal",
    ),
    r"terrafm-.*": ("test_publishers_code", "test_terrafm_gives_what_its_own_code_gives", "its publishers' code"),
    r"dofa-v2-.*": ("test_publishers_code", "test_dofa_v2_gives_what_its_own_code_gives", "its publishers' code"),
    r"anysat": ("test_publishers_more", "test_anysat_gives_what_its_own_code_gives", "its publishers' code"),
    r"sar-jepa-.*": ("test_publishers_more", "test_sar_jepa_gives_what_its_own_code_gives", "its publishers' code"),
    r"saratr-x-.*": ("test_publishers_more", "test_saratr_x_gives_what_its_own_code_gives", "its publishers' code"),
    r"sar-hub-.*": ("test_publishers_more", "test_sar_hubs_resnets_are_timms", "its publishers' code"),
    r"terramind-.*": (
        "test_terratorch",
        "test_terramind_gives_what_terratorchs_own_call_gives",
        "the call of terratorch, where it is installed",
    ),
    r"clay-.*": ("test_publishers_more", "test_clay_gives_what_its_own_code_gives", "its publishers' code"),
    r"croma.*|dofa_.*|copernicusfm_base|panopticon|satlas-swin-b": (
        "test_encoders",
        "test_encoders_give_what_their_libraries_own_call_gives",
        "torchgeo's forward; torchvision's Swin for Satlas",
    ),
    r"clip-.*": (
        "test_encoders",
        "test_encoders_give_what_their_libraries_own_call_gives",
        "open_clip's tower on colours made by hand",
    ),
    r"(reben|softcon|decur|ssl4eo|closp|fgmae|sarmae|dinov3|imagenet)-.*": (
        "test_encoders",
        "test_encoders_give_what_their_libraries_own_call_gives",
        "timm's own pooling with the same tensors",
    ),
}


def row_of(name):
    return next((row for pattern, row in EVIDENCE.items() if re.fullmatch(pattern, name)), None)


def test_no_name_is_without_evidence_and_no_row_without_its_test():
    assert [name for name in ENCODERS if row_of(name) is None] == []
    used = {id(row_of(name)) for name in ENCODERS}
    assert [pattern for pattern, row in EVIDENCE.items() if id(row) not in used] == []
    for file, test, _ in EVIDENCE.values():
        tree = ast.parse((TESTS / f"{file}.py").read_text())
        assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (file, test)


@pytest.mark.parametrize("name", ["radiance", "oceansar", "thor"])
def test_what_is_unproven_is_not_listed_and_the_documents_say_so(name):
    listed = [*ENCODERS, *WEIGHTS, *(model for models in WEIGHTS.values() for model in models)]
    assert [each for each in listed if name in each.lower()] == []
    (said,) = re.findall(r"Unproven and so not listed: .*?\n", (TESTS.parent / "docs" / "weights.md").read_text())
    assert name in said.lower()


@pytest.mark.parametrize(
    ("file", "without"),
    [
        ("encoders", ("satlas",)),  # takes digital numbers alone, the data are in dB
        ("encoders_dfc2020", ("satlas", "clip")),  # one vector an image
        ("encoders_sen1floods11", ("satlas", "clip")),
    ],
)
def test_the_experiments_have_every_encoder(file, without):
    labels = " ".join(run.label for run in load_experiment(EXPERIMENTS / f"{file}.toml").runs) + " "
    names = [name for name in ENCODERS if not name.startswith(without)]
    sets = ("EuroSAT: ", "BigEarthNet: ") if file == "encoders" else ("",)
    assert [name for name in names for of in sets if not re.search(rf"{of}{re.escape(name)}[ ,]", labels)] == []


@pytest.mark.parametrize(
    ("model", "weights", "fills"),
    [
        ("terrafm-base", "terrafm", True),
        ("sar-hub-resnet18", "sar-hub", True),
        ("sarmae-vit-b16", "sarmae", True),
        ("sar-hub-resnet18", "random", True),
        ("sar-hub-resnet18", "mine.pth", False),
        ("resnet50", "mine.pth", False),
        ("resnet50", "random", False),
        ("mine:factory", "random", False),
    ],
)
def test_an_assumed_contract_fills_a_row_where_the_registry_assumes_it(model, weights, fills):
    """Encoders whose publishers state no input stand in tables with their statement; weights of nobody do not."""
    record = resealed(make_record(model=model), "model", "contract", {"normalizer": "zscore", "assumed": True})
    record = resealed(record, "config", "model", "weights", weights)
    assert may_fill(record) == fills
