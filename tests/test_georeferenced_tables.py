"""A classifier of place and month alone stands in every georeferenced table, and can be run on each of their datasets."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.warp import transform

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.experiments import load_experiment
from fgmae_bench.data.dataset import open_index
from fgmae_bench.data.extra_inputs import extra_inputs
from fgmae_bench.models.place import NAME
from fgmae_bench.worlds import bigearthnet, bigearthnet_v2

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
DATED = ("bigearthnet", "bigearthnet_v2", "copernicus_bigearthnet")  # samples are named after their products
GEOREFERENCED = {*DATED, "eurosat", "copernicus_eurosat", "s1f_chips"}
# No comparison of encoders: a published number each under its gate, and one checkpoint that `suite run --set` names.
WITHOUT = ("reproduce_", "contract_range")


def tables():
    found = [load_experiment(path) for path in sorted(EXPERIMENTS.glob("*.toml")) if not path.stem.startswith(WITHOUT)]
    return {each.name: each for each in found if each.module == "linear"}


@pytest.mark.parametrize("name", tables())
def test_every_georeferenced_dataset_of_a_table_has_its_row(name):
    table = tables()[name]
    rows = [{**table.common, **run.flags} for run in table.runs]
    held = {row["dataset"] for row in rows} & GEOREFERENCED
    assert held
    for dataset in held:
        given = [row["inputs"] for row in rows if (row["dataset"], row["model"]) == (dataset, NAME)]
        wanted = ["location", "month"] if dataset in DATED else ["location"]
        assert wanted in given, dataset


def test_where_encoders_take_place_or_date_they_stand_with_and_without():
    for name in ("encoders", "genuine"):
        runs = [run.flags for run in tables()[name].runs if run.flags["model"] != NAME]
        for flags in (flags for flags in runs if flags.get("inputs")):
            assert {key: value for key, value in flags.items() if key != "inputs"} in runs, flags


@pytest.mark.parametrize(
    ("name", "write"),
    [("bigearthnet", bigearthnet.write_bigearthnet), ("bigearthnet_v2", bigearthnet_v2.write_bigearthnet_v2)],
)
def test_bigearthnets_patches_have_a_place_and_a_month(name, write, tmp_path):
    """Against GDAL's own reading of each patch's file of VH, and the date in the folder's name."""
    write(tmp_path / "data", patches=40)
    index = open_index(load_card(name), tmp_path / "data")
    found = extra_inputs(index, ("location", "month"), tmp_path / "cache")
    files = {path.name.removesuffix("_VH.tif"): path for path in (tmp_path / "data").rglob("*_VH.tif")}
    for row, id in enumerate(index.ids):
        with rasterio.open(files[id]) as source:
            (lon,), (lat,) = transform(source.crs, "EPSG:4326", *([value] for value in source.transform @ (60, 60)))
        np.testing.assert_allclose(found["location"][row], (lon, lat), atol=1e-9)
        assert found["month"][row] == int(id.split("_")[4][4:6]) - 1
