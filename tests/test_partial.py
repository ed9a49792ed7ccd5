"""`--partial` allows fewer samples than the card counts, and nothing else: every check of pixels still runs."""

import shutil

from commands import FOLDERS, call, codes, only_record, said, shared_world

QUICK = ("--model", "backscatter_stats", "--features", "cached", "--epochs", "1", "--batch_size", "16")
SHORT = ("--dataset", "eurosat", "--data_path", "world", *QUICK, *FOLDERS)


def world(tmp_path):
    return shutil.copytree(shared_world(5), tmp_path / "world")


def test_more_samples_than_stated_are_refused_even_so(tmp_path):
    root = world(tmp_path)
    (root / "SYNTHETIC.json").write_text((root / "SYNTHETIC.json").read_text().replace('"River": 5', '"River": 4'))
    sorted((root / "Forest").glob("*.tif"))[0].unlink()
    line = said(call("linear", *SHORT, "--partial", cwd=tmp_path))
    assert "world/River holds 5 images where SYNTHETIC.json says 4; remove what does not belong there" in line


def test_fewer_samples_are_not_what_trust_data_is_for(tmp_path):
    sorted((world(tmp_path) / "Forest").glob("*.tif"))[0].unlink()
    assert "or pass --partial" in said(call("linear", *SHORT, "--trust_data", cwd=tmp_path))


def test_pixels_are_still_held_against_the_card(tmp_path):
    root = world(tmp_path)
    sorted((root / "Forest").glob("*.tif"))[0].unlink()
    line = said(call("linear", *SHORT, "--partial", "--band_order", "VH,VV", cwd=tmp_path))
    assert "--band_order" in line
    done = call("linear", *SHORT, "--partial", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "partial" in codes(only_record(tmp_path / "results"))


def test_a_part_is_packed_with_the_flag_only(tmp_path):
    sorted((world(tmp_path) / "Forest").glob("*.tif"))[0].unlink()
    flags = ("pack", "eurosat", "--data_path", "world", "--out", "p.lmdb", "--workers", 0)
    assert "pass --partial" in said(call("prepare", *flags, cwd=tmp_path))
    assert call("prepare", *flags, "--partial", cwd=tmp_path).code == 0
