"""SAR2SAR as a stress: its network against one in numpy alone, its file read without unpickling, what is refused."""

import json
import pickle

import numpy as np
import pytest
import torch
from commands import FOLDERS, STATISTICS, call, refused, shared_world
from numpy.lib.stride_tricks import sliding_window_view
from safetensors.torch import save_file

from fgmae_bench.errors import BenchError
from fgmae_bench.models import sar2sar
from fgmae_bench.models.sar2sar import read_despeckler
from fgmae_bench.views.stress import Scene, to_power
from fgmae_bench.views.stress_table import apply

DOWN, UP = ("enc2", "enc3", "enc4", "enc5"), ("dec5", "dec4", "dec3", "dec2")


def shapes():
    """(channels in, channels out) by layer, as the published file holds them."""
    encoder = {"enc0": (1, 48)} | {f"enc{i}": (48, 48) for i in range(1, 7)}
    decoder = {name + b: (144 if not b and name != "dec5" else 96, 96) for name in UP for b in ("", "b")}
    return encoder | decoder | {"dec1a": (97, 64), "dec1b": (64, 32), "dec1": (32, 1)}


def weights(seed=0):
    """Random tensors under the published names, of such a size that signals neither vanish nor explode."""
    draw, made = torch.Generator().manual_seed(seed), {}
    for name, (inside, out) in shapes().items():
        made[f"{name}.weight"] = torch.randn((out, inside, 3, 3), generator=draw) * (2 / (9 * inside)) ** 0.5
        made[f"{name}.bias"] = torch.randn(out, generator=draw) * 0.1
    made["dec1.weight"] *= 0.05
    return made


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The weights in the form of the published file: a pickle with the optimizer beside them."""
    path = tmp_path_factory.mktemp("sar2sar") / "sar2sar.pth"
    torch.save(
        {"epoch_num": 50, "model_state_dict": weights(), "optimizer_state_dict": {"state": {}}, "loss": 0.1}, path
    )
    return path


def by_numpy(image, held):
    """The network on an image (H, W), from its description: convolutions as sums over windows, no torch."""

    def convolved(x, name, last=False):
        kernel, bias = held[f"{name}.weight"].double().numpy(), held[f"{name}.bias"].double().numpy()
        windows = sliding_window_view(np.pad(x, ((0, 0), (1, 1), (1, 1))), (3, 3), (1, 2))
        made = np.tensordot(kernel, windows, ([1, 2, 3], [0, 3, 4])) + bias[:, None, None]
        return made if last else np.where(made > 0, made, 0.1 * made)

    def halved(x):
        return x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2).max((2, 4))

    x = halved(convolved(convolved(image[None], "enc0"), "enc1"))
    skips = [image[None], x]
    for name in DOWN:
        x = halved(convolved(x, name))
        skips.append(x)
    x = convolved(skips.pop(), "enc6")  # the deepest map is no skip
    for first, second in [*((name, f"{name}b") for name in UP), ("dec1a", "dec1b")]:
        x = np.concatenate([x.repeat(2, 1).repeat(2, 2), skips.pop()])
        x = convolved(convolved(x, first), second)
    assert not skips
    return image - convolved(x, "dec1", last=True)[0]


def test_the_network_is_that_of_its_description(file):
    image = np.random.default_rng(0).random((64, 32))
    network = read_despeckler(file).network
    with torch.inference_mode():
        found = network(torch.from_numpy(image[None, None]).float())[0, 0].numpy()
    wanted = by_numpy(image, weights())
    assert np.abs(wanted - image).max() > 0.01  # noise is found at all
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_a_chip_is_scaled_to_digital_numbers_and_framed_by_its_mirror(file):
    """40 x 72 pixels: 16 mirrored all around, then up to 96 x 128."""
    db = np.random.default_rng(1).normal(-14, 4, (2, 40, 72)).astype(np.float32)
    changed, valid = apply("sar2sar", db, None, 1, Scene(sample="a", despeckle=read_despeckler(file)))
    assert valid is None
    gain, low, high = 237 / np.sqrt(np.sin(np.radians(38))), -1.429329123112601, 10.089038980848645
    assert gain == pytest.approx(302.05, abs=0.01)
    for band, made in zip(db, changed, strict=True):
        amplitude = gain * np.pad(10 ** (band.astype(float) / 20), ((16, 40), (16, 40)), mode="symmetric")
        scaled = by_numpy((np.log(amplitude + 1e-6) - low) / (high - low), weights())
        wanted = 20 * np.log10(np.exp(scaled * (high - low) + low) / gain)[16:56, 16:88]
        np.testing.assert_allclose(made, wanted, atol=2e-3)


def test_severity_is_a_share_of_its_power_and_holes_stay_holes(file):
    db = np.random.default_rng(2).normal(-14, 4, (2, 32, 32)).astype(np.float32)
    scene, hole = Scene(sample="a", despeckle=read_despeckler(file)), np.ones(db.shape, bool)
    whole, some = (to_power(apply("sar2sar", db, None, share, scene)[0]) for share in (1, 0.25))
    np.testing.assert_allclose(some, 0.75 * to_power(db) + 0.25 * whole, rtol=1e-5)
    hole[0, :4, :4] = False
    changed, valid = apply("sar2sar", np.where(hole, db, np.nan), hole, 1, scene)
    np.testing.assert_array_equal(valid, hole)
    assert np.isfinite(changed[hole]).all()


def test_the_same_tensors_in_safetensors_are_the_same_despeckler(file, tmp_path):
    save_file(weights(), tmp_path / "w.safetensors")
    torch.save(weights(1), tmp_path / "other.pth")
    same, other = (read_despeckler(tmp_path / name) for name in ("w.safetensors", "other.pth"))
    assert same.sha256 == read_despeckler(file).sha256 != other.sha256
    assert not same.published


class Runs:
    def __reduce__(self):
        return (print, ("unpickled",))


def changed(name, value):
    return {key: held for key, held in (weights() | {name: value}).items() if held is not None}


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (changed("enc3.bias", None), "enc3.bias is not there, wanted is (48,)"),
        (changed("enc7.bias", torch.zeros(48)), "enc7.bias is (48,), wanted is nothing"),
        (changed("enc0.weight", torch.zeros(48, 2, 3, 3)), "enc0.weight is (48, 2, 3, 3)"),
        (changed("dec1.bias", torch.full((1,), torch.nan)), "not finite"),
        ({"module." + name: held for name, held in weights().items()}, "is not SAR2SAR"),
    ],
    ids=["missing", "too many", "two channels", "nan", "prefix"],
)
def test_other_files_are_refused(tmp_path, tensors, words):
    torch.save(tensors, tmp_path / "w.pth")
    with pytest.raises(BenchError) as found:
        read_despeckler(tmp_path / "w.pth")
    assert words in str(found.value)


def test_nothing_of_a_file_is_run_and_merlin_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"model_state_dict": Runs()}))
    with pytest.raises(BenchError):
        read_despeckler(tmp_path / "evil.pth")
    assert "unpickled" not in capsys.readouterr().out
    torch.save(weights(2), tmp_path / "w.pth")
    monkeypatch.setitem(sar2sar.OF_MERLIN, read_despeckler(tmp_path / "w.pth").sha256, "stripmap")
    with pytest.raises(BenchError, match=r"MERLIN's weights \(stripmap\)"):
        read_despeckler(tmp_path / "w.pth")


def stress(*flags, cwd):
    backbone = (*STATISTICS[:4], "--probe", "knn", "--split", "random_60_20_20", "--no_null")
    data = ("--dataset", "eurosat", "--data_path", shared_world())
    return call("stress.__main__", *data, *backbone, *FOLDERS, *flags, cwd=cwd)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--stress", "sar2sar"), "sar2sar needs its weights"),
        (("--train_stress", "sar2sar:1"), "sar2sar needs its weights"),
        (("--stress", "sar2sar", "--despeckler", "none.pth"), "none.pth"),
        (("--stress", "offset", "--despeckler", "FILE"), "only sar2sar needs it"),
        (("--stress", "sar2sar", "--severities", "1.5", "--despeckler", "FILE"), "severity from 0 to 1"),
    ],
    ids=["no weights", "no weights to fit by", "no file", "no use", "severity"],
)
def test_bad_flags_are_refused_in_one_line(file, tmp_path, flags, words):
    assert words in refused(*(file if flag == "FILE" else flag for flag in flags), cwd=tmp_path, run=stress)
    assert not (tmp_path / "results").exists()


def test_a_card_states_whose_weights_despeckled_and_no_path(file, tmp_path, monkeypatch):
    monkeypatch.setattr(sar2sar.Sar2Sar, "forward", lambda network, image: image + network.layers["dec1"].bias)
    torch.save(weights(1), tmp_path / "other.pth")
    for path in (file, tmp_path / "other.pth"):
        said = stress("--stress", "sar2sar", "--severities", 1, "--despeckler", path, cwd=tmp_path)
        assert said.code == 0, said.err
    records = [json.loads(path.read_text()) for path in (tmp_path / "results").rglob("stress_*/*.json")]
    assert len({record["run_id"] for record in records}) == 2  # other weights, another card
    held = {record["config"]["facts"]["stress"]["despeckler"] for record in records}
    assert held == {read_despeckler(path).sha256 for path in (file, tmp_path / "other.pth")}
    for record in records:
        assert str(file.parent) not in json.dumps(record["config"]["facts"])
        assert {"despeckler", "unvalidated"} <= {note["code"] for note in record["notes"]}
        assert 0 < record["stress"][0]["metrics"]["flip_rate"] <= 1


def test_a_table_of_cards_does_not_name_a_file_of_one_machine(tmp_path):
    from fgmae_bench.config.experiments import load_experiment

    text = 'title = "T"\nmodule = "linear"\nprotocol = "stress_knn"\n[common]\ndataset = "eurosat"\nprobe = "knn"\n'
    text += '[stress]\ndespeckler = "w.pth"\n[layout]\ncolumns = ["oa"]\n[[runs]]\nlabel = "a"\nflags = { weights = "random" }\n'
    (tmp_path / "t.toml").write_text(text)
    with pytest.raises(BenchError, match="file of one machine"):
        load_experiment(tmp_path / "t.toml")
