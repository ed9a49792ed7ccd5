"""Runs made by hand are found again by a suite, and only they: every field that decides is compared, the engines' own
values are not.
"""

import pytest
from commands import call, shared_world
from segment_world import TINY
from suite_world import experiment, suite

pytest_plugins = ("segment_world",)

PLACES = ("--results_dir", "results", "--cache_dir", "cache", "--output_dir", "out", "--device", "cpu")


def by_hand(module, data, folder, *flags):
    dataset = "dfc2020" if module == "segment" else "eurosat"
    done = call(module, "--dataset", dataset, "--data_path", data, *PLACES, *flags, cwd=folder)
    assert done.code == 0, done.err


def planned(folder, flags, module="linear", data=None, protocol="linear_probe"):
    """(recorded, to do) of an experiment with one run."""
    path = experiment(folder, flags)
    text = path.read_text()
    if module != "linear":
        kept = [
            line
            for line in text.splitlines()
            if not line.startswith(("features", "epochs", "batch_size", "weights", "split"))
        ]
        text = "\n".join(kept).replace('module = "linear"', f'module = "{module}"').replace("linear_probe", protocol)
        text = text.replace(str(shared_world()), str(data)).replace(
            '"eurosat"', '"dfc2020"' if module == "segment" else '"eurosat"'
        )
        text = text.replace('"oa"', '"miou"') if module == "segment" else text
        path.write_text(text)
    result = suite("plan", path, cwd=folder)
    assert result.code == 0, result
    counts = result.out.splitlines()[-1].split()
    return int(counts[counts.index("recorded,") - 1]), int(counts[counts.index("to") - 1])


LINEAR = ("--weights", "random", "--epochs", "2", "--batch_size", "16")


@pytest.mark.parametrize(
    ("typed", "flags"),
    [
        (("--features", "cached", "--probe", "knn", "--knn_k", "5"), 'probe = "knn", knn_k = [5, 3]'),
        (("--features", "cached", "--blr", "0.1"), "blr = [0.1, 10.0]"),
        (("--features", "cached", "--lr", "0.2"), "lr = [0.2, 0.3]"),
        (("--features", "cached", "--views", "2", "--crop_scale", "0.08"), "views = 2, crop_scale = [0.08, 0.9]"),
    ],
)
def test_a_value_that_decides_is_compared(tmp_path, typed, flags):
    if "views" in flags:
        model = ("--model", "test_vit", "--input_size", "32")
        words = 'model = "test_vit", input_size = 32'
    else:
        model, words = ("--model", "backscatter_stats"), 'model = "backscatter_stats"'
    by_hand("linear", shared_world(), tmp_path, *LINEAR, *model, *typed)
    protocol = "knn" if "knn" in flags else "linear_probe"
    path = f"{words}, {flags}"
    if protocol == "knn":
        text = experiment(tmp_path, path).read_text().replace("linear_probe", protocol)
        (tmp_path / "mine.toml").write_text(text)
        out = suite("plan", tmp_path / "mine.toml", cwd=tmp_path).out
        assert out.endswith("1 recorded, 1 to do\n")
    else:
        assert planned(tmp_path, path) == (1, 1)


def test_a_crop_decides_where_views_are_random_and_nowhere_else(tmp_path):
    by_hand("linear", shared_world(), tmp_path, *LINEAR, "--model", "backscatter_stats", "--features", "cached")
    assert planned(tmp_path, 'model = "backscatter_stats", crop_scale = 0.9') == (1, 0)
    by_hand(
        "linear", shared_world(), tmp_path, *LINEAR, "--model", "test_vit", "--input_size", "32", "--features", "stream"
    )
    assert planned(tmp_path, 'model = "test_vit", input_size = 32, features = "stream", crop_scale = [0.08, 0.9]') == (
        1,
        1,
    )


def test_a_rate_left_open_is_that_of_the_recipe(tmp_path):
    by_hand(
        "linear",
        shared_world(),
        tmp_path,
        *LINEAR,
        "--model",
        "backscatter_stats",
        "--features",
        "cached",
        "--lr",
        "0.7",
    )
    assert planned(tmp_path, 'model = "backscatter_stats"') == (0, 1)
    assert planned(tmp_path, 'model = "backscatter_stats", lr = 0.7') == (1, 0)
    assert planned(tmp_path, f'model = "backscatter_stats", blr = {0.7 * 256 / 16}') == (1, 0)


def test_fine_tuning_by_hand_is_found(tmp_path):
    flags = (
        "--model",
        "test_vit",
        "--input_size",
        "32",
        "--weights",
        "random",
        "--max_steps",
        "2",
        "--batch_size",
        "8",
        "--blr",
        "0.01",
    )
    by_hand("finetune", shared_world(), tmp_path, *flags, "--layer_decay", "0.75", "--drop_path", "0.1")
    words = 'model = "test_vit", input_size = 32, weights = "random", max_steps = 2, batch_size = 8, layer_decay = 0.75, drop_path = 0.1'
    for more, expected in (
        ("blr = 0.01", (1, 0)),
        ("blr = [0.01, 0.02]", (1, 1)),
        ("blr = 0.01, crop_scale = 0.5", (0, 1)),
    ):
        assert planned(tmp_path, f"{words}, {more}", "finetune", shared_world(), "finetune") == expected


@pytest.mark.parametrize(("frozen", "features"), [(True, "stream"), (True, "cached"), (False, None)])
def test_segmentation_by_hand_is_found(tmp_path, tiles, frozen, features):
    short = {**dict(zip((flag[2:] for flag in TINY[::2]), TINY[1::2], strict=True)), "max_steps": 2}
    for name in ("epochs", "panels"):
        short.pop(name)
    typed = [part for name, value in short.items() for part in (f"--{name}", value)]
    more = ["--freeze_backbone"] * frozen + (["--features", features] if features else [])
    by_hand("segment", tiles, tmp_path, *typed, *more, "--panels", "0")
    kinds = {"model": str, "weights": str, "amp": str}
    words = ", ".join(f'{name} = "{value}"' if name in kinds else f"{name} = {value}" for name, value in short.items())
    words += ", freeze_backbone = true" * frozen + (f', features = "{features}"' if features else "")
    protocol = "frozen_upernet" if frozen else "segmentation_finetune"
    assert planned(tmp_path, words, "segment", tiles, protocol) == (1, 0)
    both = planned(tmp_path, f"{words}, augment = [true, false]", "segment", tiles, protocol)
    assert both == ((2, 0) if features == "cached" else (1, 1))
    assert planned(tmp_path, f"{words}, blocks = [0, 1]", "segment", tiles, protocol) == (0, 1)
