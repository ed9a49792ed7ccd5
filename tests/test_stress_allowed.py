"""Which stresses data allows, what they take for granted, and views that are told apart."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from fgmae_bench.config.cards import load_card
from fgmae_bench.errors import BenchError
from fgmae_bench.stress.allowed import allowed, assumptions, require_possible
from fgmae_bench.stress.flags import Options
from fgmae_bench.stress.scorer import Scorer


@pytest.mark.parametrize(
    ("bands", "groups", "name", "words"),
    [
        (("VV", "VH"), None, "offset_acquisition", "no acquisitions are known"),
        (("VV",), ("a",), "swapped", "has 1 bands"),
        (("VV",), ("a",), "imbalance", "has 1 bands"),
        (("HH", "HV"), ("a",), "missing_vv", "has HH,HV, not VV"),
        (("HH", "HV"), ("a",), "missing_vh", "has HH,HV, not VH"),
    ],
)
def test_stresses_of_bands_and_acquisitions_that_the_data_lacks_are_refused_or_noted(bands, groups, name, words):
    card = load_card("eurosat")
    card = dataclasses.replace(card, signal=dataclasses.replace(card.signal, bands=bands))
    with pytest.raises(BenchError, match=words):
        allowed(Options(names=(name,)), card, groups)
    kept, notes = allowed(Options(), card, groups)
    assert name not in kept
    assert any(found["text"].startswith(f"{name}: ") and words in found["text"] for found in notes)


@pytest.mark.parametrize(
    ("calibration", "words"),
    [
        ("gamma0_rtc", "in gamma nought already"),  # of TerraMesh; the name was compared as a whole
        ("beta0", "in beta0, not in sigma nought"),
        ("sigma0", None),
        ("unstated", None),
    ],
)
def test_gamma_nought_is_made_of_sigma_nought_alone(calibration, words):
    card = load_card("eurosat")
    card = dataclasses.replace(card, signal=dataclasses.replace(card.signal, calibration=calibration))
    options = Options(names=("gamma0",))
    if words is not None:
        with pytest.raises(BenchError, match=words):
            allowed(options, card, None)
        return
    assert allowed(options, card, None)[0] == ("gamma0",)
    codes = {found["code"] for found in assumptions(options, ("gamma0",), card)}
    assert ("calibration_assumed" in codes) == (calibration == "unstated")


@pytest.mark.parametrize("name", ["fusar_map"])
def test_image_values_are_not_put_under_stress(name):
    card = load_card(name)
    assert card.signal.units == "grey"
    with pytest.raises(BenchError, match="image values, not backscatter"):
        require_possible(SimpleNamespace(recipe=None), card, Options(), "linear")


@pytest.mark.parametrize("looks", ["0.4", "-1", "nan", "inf"])
def test_looks_that_no_product_has_are_refused(tmp_path, looks):
    path = tmp_path / "card.toml"
    text = load_card("eurosat").path.read_text().replace('name = "eurosat"', 'name = "mine"')
    path.write_text(text.replace("[signal]", f"[signal]\nlooks = {looks}"))
    with pytest.raises(BenchError, match=r"signal\.looks"):
        load_card(str(path))


def test_severities_that_share_six_digits_are_two(tmp_path):
    """Views are kept by their severity: by six digits of it the second was read as the first."""
    scored = []

    def outputs(view):
        scored.append(view)
        return np.full((2, 1), view, np.float32)

    scorer = object.__new__(Scorer)
    scorer.folder = tmp_path
    world = SimpleNamespace(rank=0, broadcast=lambda value: value)
    reading = SimpleNamespace(clean=np.zeros((2, 1), np.float32))
    scorer.subject = SimpleNamespace(world=world, reading=reading, outputs=outputs)
    scorer.views = SimpleNamespace(view=lambda name, severity, draw: severity)
    progress = SimpleNamespace(step=lambda: None)
    found = [float(scorer._outputs("offset", x, 0, progress)[0, 0]) for x in (10.00001, 10.000019, 10.00001)]
    assert scored == [10.00001, 10.000019]
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize(
    ("kind", "said", "angle"),
    [("scene", False, "each scene"), ("20 km block", True, "each 20 km block"), ("", None, "each image")],
)
def test_groups_that_are_no_acquisitions_are_said_to_be_taken_for_them(kind, said, angle):
    names = ("gamma0",) if said is None else ("offset_acquisition", "gamma0")
    notes = {found["code"]: found["text"] for found in assumptions(Options(), names, load_card("eurosat"), None, kind)}
    assert notes["theta_assumed"].endswith(f"drawn from 30.5 to 45.5 degrees for {angle}")
    assert notes.get("acquisitions_assumed") == (
        "each 20 km block is taken for an acquisition of its own" if said else None
    )
