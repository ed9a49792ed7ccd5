"""What a run costs: operations against a count by hand, energy by counters that begin anew, are lost or hidden."""

import ctypes
from types import SimpleNamespace

import pytest
import torch
from commands import STATISTICS, codes, linear, only_record, shared_world
from torch import nn

from fgmae_bench.models.cost import cost_of, cost_of_classifier, gflops_of, with_linear_head
from fgmae_bench.models.segmenter import SegmentationModel
from fgmae_bench.models.taps import OneMap
from fgmae_bench.models.two_dates import TwoDates
from fgmae_bench.system import energy
from fgmae_bench.system.energy import Counter, Energy, packages


def test_fine_tuning_costs_backbone_and_head(tmp_path):
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 5))
    model[1].eval()
    cost = cost_of_classifier(model, torch.zeros(1, 2, 4, 4))
    assert cost["gflops"] * 1e9 == 2 * 16 * 3 * 2 * 9 + 2 * 48 * 5
    assert cost["params"] == 54 + 6 + 245
    assert [module.training for module in model] == [True, False, True, True]  # as they were
    assert gflops_of(nn.ReLU(), lambda: torch.relu(torch.zeros(3))) is None


def test_a_linear_head_costs_its_products_and_its_parameters():
    """1,000 operations of a backbone of 7 parameters, and a layer of 4 x 3 with its bias."""
    cost = with_linear_head({"params": 7, "gflops": 1000 / 1e9, "energy_joules": None}, 4, 3)
    assert cost == {"params": 7 + 12 + 3, "gflops": pytest.approx(1024 / 1e9), "energy_joules": None}
    assert with_linear_head({"params": 0, "gflops": None, "energy_joules": None}, 4, 3)["gflops"] is None


def test_operations_are_counted_in_evaluation_mode():
    seen = []
    model = nn.Linear(2, 2)
    model.register_forward_hook(lambda module, *_: seen.append(module.training))
    assert gflops_of(model.train(), lambda: model(torch.zeros(1, 2))) * 1e9 == 8
    assert (seen, model.training) == ([False], True)


def test_of_two_dates_both_pass_the_backbone():
    """A patch embedding of 2 x 8 x 8 to 4 on 16 cells of each date, and a head of one product a cell."""
    taps = OneMap(nn.Conv2d(2, 4, 8, 8, bias=False), 32)

    class Head(nn.Module):
        def forward(self, maps, size):
            assert maps[0].shape == (1, 12, 4, 4)  # both and their difference
            return maps[0]

    cost = cost_of(SegmentationModel(TwoDates(taps, "both"), Head(), (32, 32)))
    assert cost["gflops"] * 1e9 == 2 * (2 * 16 * 4 * 2 * 64)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with two packages of 1,000 J that a test sets; the folder."""
    for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0", "intel-rapl"):
        (tmp_path / "powercap" / name).mkdir(parents=True)
        (tmp_path / "powercap" / name / "energy_uj").write_text("1000000\n")
        (tmp_path / "powercap" / name / "max_energy_range_uj").write_text("1000000000\n")
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "powercap")
    return tmp_path / "powercap"


def use(machine, package, joules):
    (machine / f"intel-rapl:{package}" / "energy_uj").write_text(f"{int(joules * 1e6)}\n")


def test_packages_are_added_and_a_counter_that_begins_anew_is_followed(machine):
    seconds = iter([0.0, 1.0, 2.0])
    meter = Energy(packages(machine), lambda: next(seconds))
    use(machine, 0, 31)
    meter.look()
    assert meter.joules == pytest.approx(30)
    use(machine, 1, 991)
    use(machine, 0, 6)  # 969 J to its end, 6 J after
    meter.look()
    assert meter.joules == pytest.approx(30 + 990 + 975)
    assert meter.what == "processor packages"


def test_a_gap_in_which_a_counter_may_have_begun_anew_twice_leaves_no_number(machine):
    seconds = iter([0.0, 1000 / 600 - 0.01, 10.0])
    meter = Energy(packages(machine), lambda: next(seconds))
    meter.look()
    assert meter.joules == 0
    meter.look()
    assert meter.joules is None
    meter.look()
    assert meter.joules is None


@pytest.mark.parametrize("lost", ["energy_uj", "max_energy_range_uj", "words"])
def test_a_counter_that_cannot_be_read_gives_no_number(machine, lost):
    assert len(packages(machine)) == 2
    meter = Energy(packages(machine))
    if lost == "words":
        (machine / "intel-rapl:1" / "energy_uj").write_text("many\n")
    else:
        (machine / "intel-rapl:1" / lost).unlink()
    meter.look()
    assert (meter.joules is None) == (lost != "max_energy_range_uj")
    assert packages(machine) == []
    assert packages(machine / "nowhere") == []
    assert Energy([]).joules is None


def test_a_counter_without_an_end_that_goes_back_gives_no_number():
    values = iter([5.0, 7.0, 1.0])
    meter = Energy([Counter(what="GPU", read=lambda: next(values))])
    meter.look()
    assert meter.joules == 2
    meter.look()
    assert meter.joules is None


def test_the_energy_of_a_gpu_is_asked_of_its_driver(monkeypatch):
    asked = []
    held = {"mj": 2500}

    def energy_of(device, value):
        value._obj.value = held["mj"]
        return 0

    library = SimpleNamespace(
        nvmlInit_v2=lambda: 0,
        nvmlDeviceGetHandleByUUID=lambda uuid, device: asked.append(uuid) or 0,
        nvmlDeviceGetTotalEnergyConsumption=energy_of,
    )
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    meter = Energy([energy._gpu("GPU-1")])
    held["mj"] = 4000
    meter.look()
    assert (meter.joules, meter.what, asked) == (1.5, "GPU", [b"GPU-1"])
    library.nvmlDeviceGetTotalEnergyConsumption = lambda device, value: 3  # not supported
    assert energy._gpu("GPU-1") is None
    library.nvmlDeviceGetHandleByUUID = lambda uuid, device: 6
    assert energy._gpu("GPU-1") is None
    monkeypatch.setattr(ctypes, "CDLL", lambda name: (_ for _ in ()).throw(OSError("no such library")))
    assert energy._gpu("GPU-1") is None


def test_a_run_records_its_energy_and_says_of_what(machine, tmp_path, monkeypatch):
    real, calls = energy._micro, iter(range(10**6))
    monkeypatch.setattr(energy, "_micro", lambda path: real(path) + (next(calls) if path.name == "energy_uj" else 0))
    monkeypatch.setattr(energy, "MOST_WATTS", 0.0)  # no clock in this test
    done = linear(shared_world(5), *STATISTICS[2:], backbone=STATISTICS[:2], cwd=tmp_path)
    assert done.code == 0, done.err
    record = only_record(tmp_path / "results")
    assert record["cost"]["energy_joules"] > 0
    assert record["cost"]["gflops"] is None  # statistics have no operations of those that are counted
    assert "energy" in codes(record)
