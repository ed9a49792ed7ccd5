"""Seasons and orbits of samples from cards, names and files; scores by stratum, and differences on the same places."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from commands import FOLDERS, STATISTICS, call, shared_world
from scipy import stats
from test_stress_card import card_record

from fgmae_bench.config.card import Groups
from fgmae_bench.config.cards import facts_sha256, load_card
from fgmae_bench.data.index import Index
from fgmae_bench.data.strata import Strata, Stratum, pass_at, strata_of
from fgmae_bench.errors import BenchError
from fgmae_bench.report.stress_card import card_data, markdown_card
from fgmae_bench.stress.reading import of_pixels, of_samples, pixel_row
from fgmae_bench.stress.strata import by_stratum

NAMES = (
    "S1A_IW_GRDH_1SDV_20170613T165043_33UUP_87_48",
    "S1A_IW_GRDH_1SDV_20170617T064724_29UPU_36_85",
    "S1A_IW_GRDH_1SDV_20171225T043256_35VPK_69_24",
    "S1B_IW_GRDH_1SDV_20170301T165043_33UUP_87_48",
)


def index_of(ids, root=Path("nowhere"), **more):
    stamps, labels = np.zeros(len(ids), np.uint64), np.zeros(len(ids), np.int64)
    return Index(root=root, files=tuple(ids), labels=labels, stamps=stamps, synthetic=None, **more)


def found(ids, tmp_path, card=None, **more):
    card = card or load_card("eurosat")
    return strata_of(card, index_of(ids, tmp_path, **more), np.arange(len(ids)), tmp_path / "cache")


def values(strata):
    return {each.name: each.values for each in strata.known}


def test_names_of_products_say_season_orbit_and_place(tmp_path):
    """16:50 UTC in zone 33 and 6:47 in zone 29 are the passes that the publishers' tables state."""
    strata = found(NAMES, tmp_path)
    assert values(strata) == {
        "season": ("Jun-Aug", "Jun-Aug", "Dec-Feb", "Mar-May"),
        "orbit": ("ascending", "descending", "descending", "ascending"),
    }
    assert strata.places[0] == strata.places[3] != strata.places[1]
    assert found(NAMES[:3], tmp_path).places is None  # no place is seen twice
    assert values(strata.of(np.array([3, 2]))) == {
        "season": ("Mar-May", "Dec-Feb"),
        "orbit": ("ascending", "descending"),
    }


def test_genuine_products_have_the_orbit_that_their_place_on_earth_gives(tmp_path, realdata):
    """7 June 2020, 1:08 UTC: the longitude of the file decides, its name has no tile."""
    (file,) = realdata.glob("ssl4eo_s12_s1/*/*/VV.tif")
    import rasterio
    from rasterio.warp import transform

    with rasterio.open(file) as source:
        x, y = source.transform @ (source.width / 2, source.height / 2)
        ((longitude,), _) = transform(source.crs, "EPSG:4326", [x], [y])
    strata = strata_of(
        load_card("eurosat"),
        index_of([str(file.relative_to(realdata))], realdata),
        np.array([0]),
        tmp_path / "cache",
    )
    local = (1 + 8 / 60 + longitude / 15) % 24
    wanted = "ascending" if abs(local - 18) < 3.5 else "descending" if abs(local - 6) < 3.5 else "unknown"
    assert wanted != "unknown"
    assert values(strata) == {"season": ("Jun-Aug",), "orbit": (wanted,)}


@pytest.mark.parametrize(
    ("hour", "wanted"),
    [
        (18, "ascending"),
        (20.9, "ascending"),
        (6 + 24, "descending"),
        (-18, "descending"),
        (12, "unknown"),
        (0, "unknown"),
    ],
)
def test_passes_by_local_hour(hour, wanted):
    assert pass_at(hour) == wanted


def test_a_sample_without_a_date_leaves_nothing_known(tmp_path):
    assert found(("River/River_1", NAMES[0]), tmp_path).known == ()
    some = found(("S1A_IW_GRDH_1SDV_20170613T165043_a", "S1A_IW_GRDH_1SDV_20170614T165043_b"), tmp_path)
    assert set(values(some)) == {"season"}  # nothing says the longitude
    never = found(("S1A_IW_GRDH_1SDV_20171340T165043_33UUP_1_1",), tmp_path)
    assert set(values(never)) == {"orbit"}  # the 40th of a 13th month is no season, and no reason to refuse


def test_what_a_card_states_stands_above_names(tmp_path):
    one = load_card("eurosat")
    (tmp_path / "facts.csv").write_text("sample,pass\na_x_1,up\nb_x_2,down\nb_y_1,up\n")
    stated = {
        "orbit": Groups(file="facts.csv", column="pass"),
        "season": Groups(pattern="{season}_*_#"),
        "place": Groups(pattern="*_{place}_#"),
    }
    card = dataclasses.replace(one, strata=stated)
    strata = found(("a_x_1", "b_x_2", "b_y_1"), tmp_path, card)
    assert values(strata) == {"orbit": ("up", "down", "up"), "season": ("a", "b", "b")}
    assert strata.places == ("x", "x", "y")
    platform = dataclasses.replace(one, strata={"season": Groups(pattern="{platform}_IW_GRDH_*")})
    assert values(found(NAMES, tmp_path, platform))["season"] == ("S1A", "S1A", "S1A", "S1B")
    assert facts_sha256(card) == facts_sha256(one)  # no number of a run depends on them
    with pytest.raises(BenchError, match=r"names no pass of 1 samples"):
        found(("a_x_1", "c_x_9"), tmp_path, card)
    (tmp_path / "facts.csv").unlink()
    with pytest.raises(BenchError, match=r"strata.orbit.file facts.csv is neither"):
        found(("a_x_1",), tmp_path, card)


def test_a_card_whose_strata_are_not_of_one_way_is_refused(tmp_path):
    path = tmp_path / "card.toml"
    text = load_card("eurosat").path.read_text().replace('name = "eurosat"', 'name = "mine"')
    path.write_text(text + '\n[strata.orbit]\nfile = "facts.csv"\n')
    with pytest.raises(BenchError, match=r"strata\.orbit\.file and strata\.orbit\.column"):
        load_card(str(path))


def reading_of(n=240, groups=12, seed=0):
    random = np.random.default_rng(seed)
    targets = random.integers(0, 3, n)
    logits = np.eye(3)[np.where(random.random(n) < 0.7, targets, random.integers(0, 3, n))]
    names = [f"g{i % groups}" for i in range(n)]
    return of_samples("single_label", logits, targets, names), logits.argmax(1) == targets, names


def test_scores_by_stratum_are_those_of_its_samples_with_an_interval_over_its_groups():
    reading, right, names = reading_of()
    season = ["a" if int(name[1:]) < 7 else "b" for name in names]
    kept, notes = by_stratum(
        reading, Strata(known=(Stratum(name="season", values=tuple(season), source="card"),), places=None)
    )
    assert notes == []
    for value, groups in (("a", 7), ("b", 5)):
        chosen = np.array(season) == value
        score = kept["season"]["values"][value]
        assert score["value"] == pytest.approx(right[chosen].mean())
        assert (score["samples"], score["units"], score["over"]) == (chosen.sum(), groups, "groups")
        # by hand: groups of one size, so that the jackknife's error is that of their means
        means = [right[np.array(names) == f"g{i}"].mean() for i in (range(7) if value == "a" else range(7, 12))]
        half = stats.t.ppf(0.975, groups - 1) * np.std(means, ddof=1) / np.sqrt(groups)
        assert np.diff(score["interval"])[0] == pytest.approx(
            min(1, np.mean(means) + half) - (np.mean(means) - half), rel=1e-6
        )


def test_places_that_are_seen_twice_give_a_paired_difference():
    reading, right, _ = reading_of(n=200)
    season, places = ("a", "b") * 100, tuple(f"p{i // 2}" if i < 160 else f"only{i}" for i in range(200))
    kept, _ = by_stratum(reading, Strata(known=(Stratum(name="season", values=season, source="card"),), places=places))
    (pair,) = kept["season"]["pairs"]
    gaps = right[0:160:2].astype(float) - right[1:160:2]
    assert (pair["a"], pair["b"], pair["places"]) == ("a", "b", 80)
    assert pair["difference"] == pytest.approx(gaps.mean())
    half = stats.t.ppf(0.975, 79) * gaps.std(ddof=1) / np.sqrt(80)
    assert pair["interval"] == pytest.approx([gaps.mean() - half, gaps.mean() + half])
    assert pair["p"] == pytest.approx(stats.ttest_1samp(gaps, 0).pvalue)


def test_strata_of_one_value_of_too_many_and_of_none_are_notes():
    reading, _, _ = reading_of(n=60)
    one = Stratum(name="orbit", values=("ascending",) * 60, source="card")
    many = Stratum(name="day", values=tuple(map(str, range(60))), source="card")
    kept, notes = by_stratum(reading, Strata(known=(one, many), places=None))
    assert kept == {}
    assert [each["text"] for each in notes] == ["orbit: all of ascending", "day: 60 values, more than 24"]
    assert by_stratum(reading, Strata(known=(), places=None))[1][0]["code"] == "no_strata"


def test_maps_have_strata_too():
    random = np.random.default_rng(1)
    rows = []
    for _ in range(12):
        confusion = random.integers(1, 50, (2, 2))
        rows.append(pixel_row(np.zeros(confusion.sum(), np.uint8), confusion, confusion, 0))
    reading = of_pixels(np.stack(rows), 2, 2, [f"g{i}" for i in range(12)])
    season = Stratum(name="season", values=("a", "b") * 6, source="card")
    kept, _ = by_stratum(reading, Strata(known=(season,), places=None))
    total = np.stack(rows)[::2, :4].sum(0).reshape(2, 2)
    iou = [total[k, k] / (total[k].sum() + total[:, k].sum() - total[k, k]) for k in range(2)]
    assert kept["season"]["values"]["a"]["value"] == pytest.approx(np.mean(iou))


def test_a_card_shows_its_strata(tmp_path):
    score = {"samples": 9, "units": 3, "over": "groups", "value": 0.75, "interval": None, "withheld": "few_groups"}
    pair = {"a": "a", "b": "b", "places": 6, "difference": -0.25, "interval": [-0.5, 0.0], "p": 0.05, "withheld": None}
    record = card_record()
    record["metrics"]["strata"] = {
        "season": {"source": "card", "metric": "oa", "values": {"a": score, "b": score}, "pairs": [pair]}
    }
    lines = markdown_card(record).splitlines()
    assert "| season: a | 9 | 3 groups | 0.750 | withheld: few_groups |" in lines
    assert "| season: a less b, same places |  | 6 places | -0.250 | -0.500 to 0.000 |" in lines
    assert card_data(record)["strata"]["season"]["pairs"] == [pair]
    assert card_data(card_record())["strata"] == {}


def test_a_command_gives_strata_that_its_card_states(tmp_path):
    path = tmp_path / "card.toml"
    text = load_card("eurosat").path.read_text().replace('name = "eurosat"', 'name = "mine"')
    path.write_text(text + '\n[strata.half]\npattern = "*{half}"\n')
    flags = ("--dataset", path, "--data_path", shared_world(), *STATISTICS[:4], "--probe", "knn", "--stress", "swapped")
    done = call("stress.__main__", *flags, "--split", "random_60_20_20", *FOLDERS, cwd=tmp_path)
    assert done.code == 0, done.err
    (file,) = (tmp_path / "results").rglob("stress_*/*.json")
    record = json.loads(file.read_text())
    halves = record["metrics"]["strata"]["half"]["values"]
    assert sum(score["samples"] for score in halves.values()) == record["dataset"]["n_test"]
    right = sum(score["samples"] * score["value"] for score in halves.values())
    assert right / record["dataset"]["n_test"] == pytest.approx(record["metrics"]["test"]["oa"])
    assert "| half: " in done.out
