"""Score against cost: which panels a picture has, the front of each, and the frame that a file is cut to."""

from __future__ import annotations

import pytest
from boards import record, row, table
from make_records import resealed

from fgmae_bench.report import cost_pictures, figures
from fgmae_bench.report.pivots import pivots


def costly(model: str, dataset: str, oa: float, on: tuple = ("CPU", "cpu", 1, 1), **cost: float | None):
    made = record(model, dataset, oa=oa)
    where = dict(zip(("device_name", "device", "world_size", "threads"), on, strict=True))
    made = resealed(made, "environment", {**made["environment"], **where})
    timing = {**made["timing"], "images_per_second": cost.pop("speed", None)}
    made = resealed(resealed(made, "timing", timing), "model", "params_total", cost.pop("params", 0))
    return row(model, resealed(made, "cost", {"gflops": None, "energy_joules": None, **cost}))


def pivot_of(*rows):
    (found,) = pivots([table(*rows)])
    return found


def titles(figure):
    return [(axes.get_title(loc="left").split(",")[0], axes.get_xlabel()) for axes in figure.axes]


@pytest.fixture
def drawn(monkeypatch):
    kept = []
    monkeypatch.setattr(cost_pictures, "save", lambda figure, path: kept.append(figure))
    return kept


def test_every_dataset_and_every_known_cost_has_a_panel(drawn, tmp_path):
    rows = [
        costly(model, dataset, oa, params=10**size, speed=100.0 / size, gflops=float(size), energy_joules=5.0 * size)
        for dataset in ("d0", "d1")
        for model, oa, size in (("a", 0.6, 1), ("b", 0.7, 2), ("c", 0.65, 3))
    ]
    cost_pictures.draw(pivot_of(*rows), tmp_path / "x.png")
    machine = "\nCPU, 1 thread"
    costs = ["parameters", "GFLOPs an image", f"images/s (more is better){machine}", f"energy (J){machine}"]
    assert [label for _, label in titles(drawn[0])] == costs * 2
    assert [title for title, _ in titles(drawn[0])] == ["d0", "", "", "", "d1", "", "", ""]


def test_a_cost_that_only_a_later_dataset_knows_is_drawn(drawn, tmp_path):
    rows = [
        costly(model, dataset, oa, gflops=size if dataset == "d1" else None)
        for dataset in ("d0", "d1")
        for model, oa, size in (("a", 0.6, 1.0), ("b", 0.7, 2.0))
    ]
    made = pivot_of(*rows)
    assert cost_pictures.available(made) == {"score against cost": "pivot-linear_probe-cost.png"}
    cost_pictures.draw(made, tmp_path / "x.png")
    assert titles(drawn[0]) == [("d1", "GFLOPs an image")]


def test_what_costs_nothing_has_no_place_on_an_axis_of_ratios():
    rows = [costly(m, "d0", 0.6, energy_joules=joules) for m, joules in (("a", 0.0), ("b", 3.0), ("c", 4.0))]
    assert [label for label, _, _ in cost_pictures.points(pivot_of(*rows), 0, "energy_joules")] == ["b", "c"]


EPYC, GPU = ("AMD EPYC", "cpu", 1, 2), ("NVIDIA H200", "cuda", 1, 2)


def of_machines(*made):
    """A pivot of models a, b, ... that took 1, 2, ... images/s and GFLOPs, each on a machine."""
    return pivot_of(
        *(
            costly("abcdefgh"[i], "d0", 0.5 + i / 100, on, speed=1.0 + i, gflops=1.0 + i, energy_joules=1.0 + i)
            for i, on in enumerate(made)
        )
    )


def test_costs_of_other_machines_are_left_out_of_an_axis_and_counted(drawn, tmp_path):
    made = of_machines(GPU, EPYC, EPYC, GPU, EPYC)
    for axis in ("images_per_second", "energy_joules"):
        assert [label for label, _, _ in cost_pictures.points(made, 0, axis)] == ["b", "c", "e"]
    assert [label for label, _, _ in cost_pictures.points(made, 0, "gflops")] == list("abcde")
    cost_pictures.draw(made, tmp_path / "x.png")
    assert [label for _, label in titles(drawn[0])] == [
        "GFLOPs an image",
        "images/s (more is better)\nAMD EPYC, 2 threads\n2 of other machines left out",
        "energy (J)\nAMD EPYC, 2 threads\n2 of other machines left out",
    ]


def test_of_as_many_models_on_two_machines_the_first_counts():
    assert cost_pictures.measured_on(of_machines(GPU, EPYC, EPYC, GPU), 0, "images_per_second") == ("NVIDIA H200", 2)


@pytest.mark.parametrize(
    ("first", "second", "one"),
    [
        (GPU, GPU, True),
        (GPU, ("NVIDIA H200", "cuda", 4, 2), False),
        (GPU, ("NVIDIA H200", "cuda", 1, 8), True),  # of a GPU the threads of its host say little
        (EPYC, ("AMD EPYC", "cpu", 1, 16), False),
        (EPYC, ("AMD EPYC", "cpu", 2, 2), False),
    ],
)
def test_a_machine_is_its_name_its_threads_and_its_processes(first, second, one):
    made = of_machines(first, second)
    assert len(cost_pictures.points(made, 0, "images_per_second")) == (2 if one else 1)
    assert bool(cost_pictures.available(made))
    assert ("images_per_second" in cost_pictures._panels(made)[0]) == one


def test_a_mean_over_two_machines_stands_on_no_axis_of_a_machine():
    mixed = row("a", *(costly("a", "d0", 0.6, on, speed=9.0, gflops=1.0).records[0] for on in (EPYC, GPU)))
    made = pivot_of(mixed, costly("b", "d0", 0.7, EPYC, speed=2.0, gflops=2.0))
    assert cost_pictures.machine_of(mixed) == ""
    assert [label for label, _, _ in cost_pictures.points(made, 0, "images_per_second")] == ["b"]
    assert cost_pictures.measured_on(made, 0, "images_per_second") == ("AMD EPYC, 2 threads", 1)
    assert [label for label, _, _ in cost_pictures.points(made, 0, "gflops")] == ["a", "b"]


def test_a_cost_of_seeds_is_their_mean_and_unknown_where_one_is():
    def seeds(*joules):
        made = [costly("a", "d0", 0.6, energy_joules=each).records[0] for each in joules]
        return cost_pictures.of_row(row("a", *made), "energy_joules")

    assert seeds(3.0, 5.0) == 4
    assert seeds(3.0, None) is None


def test_the_front_holds_what_no_other_beats_in_both():
    found = [("a", 4.0, 0.8), ("b", 2.0, 0.7), ("c", 3.0, 0.7), ("d", 4.0, 0.9), ("e", 8.0, 0.9)]
    assert [found[i][0] for i in cost_pictures.front(found)] == ["b", "d"]
    assert [found[i][0] for i in cost_pictures.front(found, less=False)] == ["e"]


def test_the_frame_of_a_picture_is_the_one_that_tight_finds(tmp_path):
    def sketch():
        figure, axes = figures.new_axes()
        axes.plot([0, 1, 2], [0.1, 0.7, 0.3], label="a label that is longer than the axes leave room for")
        axes.set_title("one\ntwo")
        figures.outer_legend(axes)
        return figure

    figures.save(sketch(), tmp_path / "ours.png")
    for ending, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        import matplotlib

        with matplotlib.rc_context({"svg.hashsalt": "ours", "svg.fonttype": "none"}):
            sketch().savefig(tmp_path / f"tight.{ending}", bbox_inches="tight", metadata=metadata)
    assert (tmp_path / "ours.png").read_bytes() == (tmp_path / "tight.png").read_bytes()
    ours, tight = ((tmp_path / f"{name}.svg").read_text().split("viewBox")[1][:60] for name in ("ours", "tight"))
    assert ours == tight
