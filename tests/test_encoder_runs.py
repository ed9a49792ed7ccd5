"""What runs of encoders share and say: banks of features, pre-training beside the dataset, ranks."""

import pytest
from commands import call, only_record, said, shared_world

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.run import Model
from fgmae_bench.report.row import out_of_ranks


def test_features_of_one_patch_size_are_not_taken_for_those_of_another(tmp_path):
    """Tensors, contract and samples are equal, and both runs share one cache: only the patch tells their banks apart."""
    pytest.importorskip("rslearn")
    data = ("--dataset", "eurosat", "--data_path", shared_world(5), "--model", "presto", "--weights", "random")
    found = []
    for patch in ("4", "8"):
        words = (*data, "--patch_size", patch, "--probe", "knn", "--device", "cpu", "--cache_dir", "cache")
        places = ("--results_dir", f"results{patch}", "--output_dir", f"out{patch}")
        result = call("linear", *words, *places, cwd=tmp_path)
        assert result.code == 0, said(result)
        found.append(only_record(tmp_path / f"results{patch}")["predictions"]["sha256"])
    assert found[0] != found[1]
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 2


def test_what_the_pre_training_has_seen_is_noted_and_a_column():
    from fgmae_bench.report.columns import overlap
    from fgmae_bench.runs.setup import _overlap_notes

    card = load_card("bigearthnet_v2")
    notes = _overlap_notes(card, Model(model="resnet50", weights="reben"))
    assert [note["text"] for note in notes] == ["the weights reben have seen its training images and labels"]
    elsewhere = _overlap_notes(load_card("eurosat"), Model(model="resnet50", weights="reben"))
    expected = "not excluded (ten countries of Europe, June 2017 to May 2018, labels: CORINE land cover of 2018)"
    assert ([note["code"] for note in elsewhere], overlap({"notes": elsewhere})) == (["pretraining_places"], expected)
    unknown = _overlap_notes(card, Model(model="clay-v1.5-l", weights="clay"))
    assert overlap({"notes": unknown}) == "not published"
    assert _overlap_notes(card, Model(model="resnet50", weights="random")) == []
    assert overlap({"notes": notes}) == "its training images and labels"
    assert overlap({"notes": []}) == "-"


def test_vectors_that_may_be_of_other_sensors_stand_in_no_rank():
    model = {"contract": None}
    unknown = {"model": model, "notes": [{"code": "embeddings_unverified", "text": "x"}]}
    assert out_of_ranks(unknown) == "nothing says of which pixels its vectors are, or of which sensors"
    assert out_of_ranks({"model": model, "notes": []}) is None
