"""Names, numbers, cards and config files that cannot be meant: one line that names what is wrong and what to do, and
nothing is touched.
"""

import pytest
from commands import TINY_VIT, call, edited_card, linear, only_record, refused, shared_world

# --- names and values


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (("--dataset", "eurosta"), "unknown dataset 'eurosta'; did you mean 'eurosat'? choose from "),
        (
            ("--dataset", "no/card.toml"),
            "card no/card.toml does not exist; give the path of a card.toml, or a name from: ",
        ),
        (("--model", "vit_smal_patch16"), "unknown model 'vit_smal_patch16'; did you mean 'vit_small_patch16'?"),
        (("--model", "VIT_small_patch16"), "unknown model 'VIT_small_patch16'; did you mean 'vit_small_patch16'?"),
        (("--model", "backscatter_stat"), "unknown model 'backscatter_stat'; did you mean 'backscatter_stats'?"),
        (("--model", "resnet18", "--pool", "cls"), "resnet18 has no CLS token; use --pool mean"),
        (("--model", "no_such_module:make"), "--model no_such_module:make: No module named 'no_such_module'"),
        (
            ("--model", "vit_tiny_patch16_224", "--input_size", "50"),
            "--input_size 50 is not divisible by the patch of 16 px; use --input_size 48",
        ),
        (("--input_size", "32"), "backscatter_stats takes raw dB"),
        (
            ("--model", "vit_tiny_patch16_224", "--normalizer", "zscor"),
            "unknown normalizer 'zscor'; did you mean 'zscore'?",
        ),
        (("--split", "referense"), "unknown split 'referense'; did you mean 'reference'?"),
        (("--probe", "lbgfs"), "'lbgfs'; did you mean 'lbfgs'?"),
        (("--recipe", "publishd"), "'publishd'; did you mean 'published'?"),
        (("--features", "cache"), "'cache'; did you mean 'cached'?"),
        (("--amp", "bf61"), "'bf61'; did you mean 'bf16'?"),
        (("--lr", "-0.1"), "--lr is -0.1; give a positive number"),
        (("--lr", "0"), "--lr is 0.0; give a positive number"),
        (("--lr", "nan"), "--lr is nan; give a positive number"),
        (("--lr", "inf"), "--lr is inf; give a positive number"),
        (("--lr", "0.1", "-0.1"), "--lr is -0.1; give a positive number"),
        (("--lr", "fast"), "'fast'"),
        (("--blr", "-1"), "--blr is -1.0; give a positive number"),
        (("--weight_decay", "-1"), "--weight_decay is -1.0; give zero or more"),
        (("--epochs", "0"), "--epochs is 0; give 1 or more"),
        (("--epochs", "-3"), "--epochs is -3; give 1 or more"),
        (("--epochs", "two"), "'two'"),
        (("--warmup_epochs", "-1"), "--warmup_epochs is -1.0; give zero or more"),
        (("--batch_size", "0"), "--batch_size is 0; give 1 or more"),
        (
            ("--batch_size", "41"),
            "effective batch 41 is larger than the training split (40 images); use --batch_size 40 or less",
        ),
        (("--accum_iter", "3"), "effective batch 48 is larger than the training split (40 images)"),
        (("--accum_iter", "0"), "--accum_iter is 0; give 1 or more"),
        (
            ("--train_frac", ".2", "--batch_size", "11"),
            "effective batch 11 is larger than the training split (10 images)",
        ),
        (("--train_frac", "0"), "--train_frac is 0.0; give a share in (0, 1]"),
        (("--train_frac", "1.5"), "--train_frac is 1.5; give a share in (0, 1]"),
        (("--train_frac", "-0.5"), "--train_frac is -0.5; give a share in (0, 1]"),
        (("--train_frac", "nan"), "--train_frac is nan; give a share in (0, 1]"),
        (("--views", "0"), "--views is 0; give 1 or more"),
        ((*TINY_VIT[:4], "--views", "2", "--features", "stream"), "--views with --features stream; leave out --views"),
        (
            (*TINY_VIT[:4], "--probe", "knn", "--features", "stream"),
            "--probe knn is fitted on the evaluation view; leave out --features stream",
        ),
        (("--features", "stream"), "backscatter_stats sees no random views; leave out --features stream and --views"),
        (
            (*TINY_VIT[:4], "--probe", "lbfgs", "--views", "2"),
            "--probe lbfgs is fitted on the evaluation view; leave out --features stream",
        ),
        (("--seed", "-1"), "--seed is -1; give a number from 0 to 4294967295"),
        (("--num_workers", "-1"), "--num_workers is -1; give zero or more"),
        (("--split_seed", "-1"), "--split_seed is -1; "),
        (("--split_seed", "4294967296"), "--split_seed is 4294967296; "),
        (("--device", "tpu"), "unknown device 'tpu'; choose from auto, cpu, cuda"),
        (("--device", "meta"), "device 'meta' is not supported; choose from auto, cpu, cuda"),
        (
            ("--amp", "fp16", "--model", "vit_tiny_patch16_224", "--device", "cpu"),
            "--amp fp16 on a CPU; use --amp bf16 or off",
        ),
        (("--lr", "0.1", "1e-1"), "the grid of --lr and --weight_decay holds a value twice; name each value once"),
        (("--lr", "0.1", "0.2", "--weight_decay", "0", "0.0"), "holds a value twice"),
        (
            ("--epochs", "2", "--warmup_epochs", "10"),
            "the warm-up is 10 of 2 epochs; give a longer schedule or a shorter --warmup_epochs",
        ),
        (("--lr", "0.1", "--min_lr", "5"), "--min_lr 5 is above the learning rate 0.1; give a smaller one"),
        (("--accum_iter", "100"), "is larger than the training split (40 images); use --accum_iter"),
        (("--band_order", "HH,VV"), "--band_order is HH,VV; give VV,VH or VH,VV"),
        (("--epoch", "3"), "unknown flag '--epoch'; did you mean '--epochs'?"),
        (("--train-fraction", "1"), "unknown flag '--train-fraction'; did you mean '--train_frac'?"),
        (("--lr=0.1", "--wieght_decay=0"), "unknown flag '--wieght_decay=0'; did you mean '--weight_decay'?"),
        (("reference",), "unexpected argument 'reference'; see --help"),
        (("--epochs",), "argument --epochs: expected one argument; see --help"),
        (("--config", "nowhere.toml"), "nowhere.toml: cannot be read (No such file or directory)"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, tuple) else "",
)
def test_bad_value(tmp_path, flags, fault):
    assert fault in refused(shared_world(5), *flags, cwd=tmp_path)


def test_a_factory_that_its_module_does_not_have(tmp_path):
    done = linear(shared_world(5), "--model", "math:nothing", cwd=tmp_path)
    said_before, line, end = done.err.split("\n")
    assert (done.code, end) == (2, "")
    assert said_before == "--model math:nothing: importing math, which runs its code"
    assert "--model math:nothing: module 'math' has no attribute 'nothing'" in line


@pytest.mark.parametrize(("weights", "closest"), [("fgmea", "fgmae"), ("Radnom", "random")])
@pytest.mark.parametrize("flag", ["--weights", "--finetune"])
def test_unknown_weights_offer_the_closest(tmp_path, flag, weights, closest):
    line = refused(
        shared_world(5), "--model", "vit_tiny_patch16_224", "--input_size", "32", flag, weights, cwd=tmp_path
    )
    assert f"unknown weights '{weights}'" in line
    assert f"did you mean '{closest}'?" in line


def test_cuda_without_one(tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    for device in ("cuda", "cuda:1"):
        assert (
            f"--device {device}: this machine or this build of torch has no CUDA device; use --device cpu"
            in refused(shared_world(5), "--device", device, cwd=tmp_path)
        )


def test_more_neighbours_than_samples(tmp_path):
    line = refused(shared_world(5), "--probe", "knn", "--knn_k", "41", cwd=tmp_path)
    assert "--knn_k is 41, the training split holds 40 images; give a smaller k" in line


def test_no_dataset_named(tmp_path):
    line = refused("--epochs", "2", cwd=tmp_path, run=lambda *flags, cwd: call("linear", *flags, cwd=cwd))
    assert "--dataset is missing; name a dataset, for example --dataset eurosat" in line


@pytest.mark.parametrize(("given", "code"), [(10, 0), (11, 0), (9, 2), (12, 2), (0, 2)])
def test_number_of_classes_is_that_of_the_label_scheme(tmp_path, given, code):
    if code:
        assert f"--nb_classes is {given}, label scheme eurosat10 has 10; give 10" in refused(
            shared_world(5), "--nb_classes", given, cwd=tmp_path
        )
        return
    done = linear(shared_world(5), "--nb_classes", given, cwd=tmp_path)
    assert done.code == 0, done.err
    assert ("--nb_classes 11 counts a class 0 that eurosat10 does not have: 10 outputs are used" in done.err) == (
        given == 11
    )
    record = only_record(tmp_path / "results")
    assert record["config"]["data"]["nb_classes"] == 10
    assert len(record["metrics"]["confusion"]) == 10


# --- cards and config files


@pytest.mark.parametrize(
    ("replacement", "fault"),
    [
        (("version = 1", "version = 1\ncolour = 'grey'"), "unknown key 'colour'"),
        (("units = ", "unit = "), "unknown key 'unit'; did you mean 'units'?"),
        (("version = 1", "version = 'one'"), "version is 'one'; give a value of type int"),
        (("version = 1", ""), "key 'version' is missing"),
        (("version = 1", "version = = 1"), "not valid TOML"),
        (('units = "dB"', 'units = "decibel"'), "units is 'decibel'; "),
        (('"VV", "VH"', '"VV", "XX"'), "signal.bands"),
        (
            ('layout = "class_folders"', 'layout = "class_folder"'),
            "unknown layout 'class_folder'; did you mean 'class_folders'?",
        ),
        (('default_split = "reference"', 'default_split = "referenc"'), "split 'referenc' is not defined"),
        (("River = 2500", "River = 2501"), "counts.per_class does not add up to counts.total"),
        (("River = 2500\n", ""), "counts.per_class does not name exactly the classes"),
        (("train = 0.6\nval = 0.2\nleaky", "train = 0.6\nval = 0.4\nleaky"), "splits.random_60_20_20: fractions"),
    ],
)
def test_bad_card_is_named(tmp_path, replacement, fault):
    card = edited_card(tmp_path / "card.toml", replacement)
    line = refused(shared_world(5), "--dataset", card, cwd=tmp_path)
    assert line.startswith(f"error: {card}: ")
    assert fault in line


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[recipe]\nepoch = 3\n", "recipe: unknown key 'epoch'"),
        ("[recipes]\nepochs = 3\n", "unknown section 'recipes'"),
        ("epochs = 3\n", "unknown section 'epochs'"),
        ("[recipe\n", "not valid TOML"),
    ],
)
def test_bad_config_file_is_named(tmp_path, text, fault):
    (tmp_path / "mine.toml").write_text(text)
    line = refused(shared_world(5), "--config", "mine.toml", cwd=tmp_path)
    assert line.startswith("error: mine.toml: ")
    assert fault in line


def test_bad_value_in_a_config_file(tmp_path):
    (tmp_path / "mine.toml").write_text('[recipe]\nmomentum = "much"\n')
    assert "momentum is 'much'; give a value of type float" in refused(
        shared_world(5), "--config", "mine.toml", cwd=tmp_path
    )
