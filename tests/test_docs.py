"""What the documents say: every command is one that works, snippets run, links lead somewhere, both languages hold the
same.
"""

from __future__ import annotations

import ast
import glob
import importlib
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import pytest
from commands import REPOSITORY, call

from fgmae_bench.checkpoints.registry import published, registered
from fgmae_bench.command import IGNORED
from fgmae_bench.config.cards import load_card
from fgmae_bench.config.compose import compose
from fgmae_bench.config.flags import dispatch, parse_run
from fgmae_bench.errors import BenchError
from fgmae_bench.features.__main__ import parser as features_parser
from fgmae_bench.models.architectures import architecture
from fgmae_bench.report.__main__ import parser as report_parser
from fgmae_bench.report.compare import parser as compare_parser
from fgmae_bench.report.rank import parser as rank_parser
from fgmae_bench.report.regions import parser as regions_parser
from fgmae_bench.report.rescored import parser as waterfall_parser
from fgmae_bench.stress.__main__ import parser as stress_parser
from fgmae_bench.stress.flags import entry_of
from fgmae_bench.suite.flags import commands_of

README, CHINESE = REPOSITORY / "README.md", REPOSITORY / "README.zh.md"
OWN = [README, CHINESE, REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
DOCUMENTS = [*OWN, *sorted((REPOSITORY / "datasets").glob("*/README.md"))]
TASKS = {
    "linear": ("single_label", "multi_label"),
    "finetune": ("single_label", "multi_label"),
    "segment": ("segmentation", "regression"),
}
PACKAGES = ("prepare", "text", "weights", "suite", "ablate", "board")
TOOLS = ("curl", "tar", "pip")  # commands of others that a document may name
LAUNCHER = re.compile(r"(python3? |torchrun |make )")
# Words in place of the reader's own folders, files and runs; no card, split, model or weights is looked up for them.
PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*(/.*|\..*)?|path/to/.*|.*\.(pth|pkl|safetensors)")
FENCE = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)


def named(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=named)
each_own = pytest.mark.parametrize("document", OWN, ids=named)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the word after it (`run` and the like), its text."""

    language: str
    kind: str
    text: str


def blocks(text: str) -> list[Block]:
    found = []
    for indent, info, body in FENCE.findall(text):
        language, _, kind = info.strip().partition(" ")
        found.append(Block(language, kind, re.sub(f"^{indent}", "", body, flags=re.MULTILINE)))
    return found


def lines(block: Block) -> list[list[str]]:
    """The commands of a block as words, without comments and redirections; a backslash at a line's end goes on."""
    found = []
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            found.append(words[: words.index(">")] if ">" in words else words)
    return found


def commands(text: str, kind: str | None = None) -> list[list[str]]:
    """All commands of a document: of `sh` blocks, in blocks without a language and in the text where a line begins like
    one. Those marked `added`, which need what the page adds, are run by test_adding.py.
    """
    found = []
    for block in blocks(text):
        if block.language == "sh" and (block.kind == kind if kind else block.kind != "added"):
            found += lines(block)
        elif block.language == "" and kind is None:
            found += [words for words in lines(block) if LAUNCHER.match(" ".join(words) + " ")]
    if kind is None:
        spans = re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
        found += [shlex.split(span) for span in spans if LAUNCHER.match(span)]
    return found


def module_of(words: list[str]) -> tuple[str, list[str]] | None:
    """(module of ours, its arguments); None for other commands."""
    if words[0] not in ("python", "torchrun") or "-m" not in words:
        return None
    place = words.index("-m")
    assert all(word.startswith("--nproc_per_node=") for word in words[1:place]), words
    package, _, module = words[place + 1].partition(".")
    assert package == "fgmae_bench", words
    return module, words[place + 2 :]


def check(words: list[str]) -> None:
    """Fail unless the command is one that its own parser takes, with names that exist."""
    found = module_of(words)
    if found is None:
        check_other(words)
        return
    module, argv = found
    if not module:  # the list of modules
        assert not argv, words
        return
    if "..." in argv or "…" in argv:
        raise AssertionError(f"{words}: write the command out")
    if module in TASKS:
        check_run(module, argv)
    elif module in PACKAGES:
        check_package(module, argv)
    elif argv[:1] == ["compare"]:
        compare_parser().parse_args(argv[1:])
    elif argv[:1] == ["rank"]:
        rank_parser().parse_args(argv[1:])
    elif argv[:1] == ["waterfall"]:
        waterfall_parser().parse_args(argv[1:])
    elif argv[:1] == ["regions"]:
        regions_parser().parse_args(argv[1:])
    elif module == "features":
        assert argv[0] == "export", words
        assert features_parser().parse(argv[1:])["out"]
    elif module == "stress":
        stress_parser(entry_of(argv)).parse(argv)
    else:
        assert module == "report", words
        assert not report_parser().parse_known_args(argv)[1]


def check_other(words: list[str]) -> None:
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
        assert words[1] in targets, words
    elif words[0] == "python":
        assert (REPOSITORY / words[1]).is_file(), words
    else:
        assert words[0] in TOOLS, words


def check_run(module: str, argv: list[str]) -> None:
    """A training command: flags, dataset, task, split, recipe, model and weights are valid."""
    own = getattr(importlib.import_module(f"fgmae_bench.{module}"), "IGNORED", ())
    given, config, _ = parse_run(module, "", argv, IGNORED + own)
    assert not config
    any_card = "dfc2020" if module == "segment" else "eurosat"
    name = any_card if PLACEHOLDER.fullmatch(given["dataset"]) else given["dataset"]
    card = load_card(name)
    assert card.task in TASKS[module], argv
    for run in compose(module, given, card):
        assert run.data.split is None or PLACEHOLDER.fullmatch(run.data.split) or run.data.split in card.splits, argv
        if ":" not in run.model.model:
            architecture(run.model.model)
        weights = run.model.weights
        if weights != "random" and run.model.model != "backscatter_stats" and not PLACEHOLDER.fullmatch(weights):
            published(weights, run.model.model)


def check_package(module: str, argv: list[str]) -> None:
    """A command with sub-commands: parsed by its own parser, with names of datasets, worlds, weights and experiments
    looked up.
    """
    package = f"fgmae_bench.{module}"
    listed = importlib.import_module(f"{package}.__main__").COMMANDS
    assert argv, f"{module} without a command"
    assert argv[0] in listed, f"{module} has no command {argv[0]}"
    command, caught = importlib.import_module(f"{package}.{argv[0]}"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "main", caught.append)
        dispatch(package, listed, "", print, argv)
    (given,) = caught
    for key in ("dataset", "what"):
        if key in given and not PLACEHOLDER.fullmatch(given[key]):
            load_card(given[key])
    if "world" in given:
        assert given["world"] in command.WORLDS
    if module == "weights" and "name" in given and not PLACEHOLDER.fullmatch(given["name"]):
        models = registered()[given["name"]]
        assert given.get("model") in models or len(models) == 1, argv
    if module == "suite":
        found = [path for pattern in given["files"] for path in glob.glob(str(REPOSITORY / pattern))]
        assert found, argv
        assert commands_of({**given, "files": [Path(path) for path in sorted(found)]})
    if module == "ablate":
        assert load_card(given["dataset"]).task == "segmentation"


def text_of(document: Path) -> str:
    return document.read_text(encoding="utf-8")


@each_document
def test_every_command_is_one_that_its_parser_takes(document: Path) -> None:
    for words in commands(text_of(document)):
        try:
            check(words)
        except (BenchError, AssertionError, KeyError) as error:
            raise AssertionError(f"{named(document)}: {shlex.join(words)}: {error}") from error


def test_a_wrong_command_is_noticed() -> None:
    for text in (
        "python -m fgmae_bench.linear --dataset eurosta",
        "python -m fgmae_bench.linear --dataset eurosat --epoch 3",
        "python -m fgmae_bench.linear --dataset dfc2020",
        "python -m fgmae_bench.linear --dataset eurosat --split spacial",
        "python -m fgmae_bench.finetune --dataset eurosat --weights fgmea",
        "python -m fgmae_bench.segment --dataset dfc2020 --recipe improved",
        "python -m fgmae_bench.segment --dataset dfc2020 --model vit_smal_patch16",
        "python -m fgmae_bench.prepare inspekt eurosat",
        "python -m fgmae_bench.prepare synth mars",
        "python -m fgmae_bench.weights fetch fgmae",
        "python -m fgmae_bench.suite run experiments/nothing.toml",
        "python -m fgmae_bench.report --checks",
        "python -m fgmae_bench.benchmark",
        "python experiments/nothing.py",
        "make coffee",
        "sudo reboot",
    ):
        (words,) = commands(f"```sh\n{text}  # why\n```\n")
        with pytest.raises((BenchError, AssertionError, KeyError)):
            check(words)


def test_commands_are_found_in_blocks_lists_and_text() -> None:
    text = "`make demo` and\n```sh run\npython -m a \\\n  --b 'c d' > e  # f\n```\n1. x\n\n   ```\n   torchrun -m g\n   a model=b\n   ```\n"
    assert commands(text) == [["python", "-m", "a", "--b", "c d"], ["torchrun", "-m", "g"], ["make", "demo"]]
    assert commands(text, "run") == [["python", "-m", "a", "--b", "c d"]]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to work in, as the checkout is one: with its experiments."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "experiments").symlink_to(REPOSITORY / "experiments")
    return folder


@pytest.fixture(autouse=True)
def _own_cache(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home of its own, so that features are kept there; matplotlib keeps the fonts that it has found."""
    matplotlib.get_cachedir()
    monkeypatch.setenv("HOME", str(desk))
    monkeypatch.delenv("FGMAE_BENCH_CACHE", raising=False)


def really_run(document: Path, desk: Path) -> None:
    for words in commands(text_of(document), "run"):
        found = module_of(words)
        assert found is not None, words
        module, argv = found
        argv = [path for word in argv for path in (sorted(glob.glob(word, root_dir=desk)) if "*" in word else [word])]
        done = call(
            f"{module}.__main__" if module in ("suite", "weights", "ablate", "board") else module, *argv, cwd=desk
        )
        assert done.code == 0, f"{shlex.join(words)}\n{done.out}{done.err}"


def python_blocks(text: str) -> list[str]:
    return [block.text for block in blocks(text) if block.language == "python"]


@pytest.mark.slow
def test_readme_by_hand_and_your_model_really_run(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    really_run(README, desk)
    assert (desk / "demo/results/index.html").is_file()
    monkeypatch.chdir(desk)
    for snippet in python_blocks(text_of(README)):
        exec(compile(snippet, "README.md", "exec"), {})
    assert (desk / "demo/accuracy.png").is_file()
    assert "'oa'" in capsys.readouterr().out
    assert list(desk.glob("results/records/eurosat/linear_probe/my_model-*.json"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "document", [d for d in OWN if d not in (README, CHINESE) and commands(text_of(d), "run")], ids=named
)
def test_commands_marked_run_really_run(document: Path, tmp_path: Path) -> None:
    really_run(document, tmp_path)


def test_manifest_of_the_documents_names_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other TOML blocks, a card and an experiment, are tried by test_adding.py."""
    found = [block for document in OWN for block in blocks(text_of(document)) if block.language == "toml"]
    assert sorted(block.kind for block in found) == ["card", "experiment", "weights"]
    path = tmp_path / "weights.toml"
    path.write_text(next(block.text for block in found if block.kind == "weights"))
    monkeypatch.setenv("FGMAE_BENCH_WEIGHTS", str(path))
    assert "mine" in registered()


@each_own
def test_links_lead_to_files(document: Path) -> None:
    text = FENCE.sub("", text_of(document))
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert target.startswith("https://") or (document.parent / target).exists(), f"{named(document)}: {target}"


@each_own
def test_files_and_tests_that_are_named_exist(document: Path) -> None:
    text = re.sub(r"`[^`\n]+`, a new file:", "", FENCE.sub("", text_of(document)))
    for span in re.findall(r"`([^`\n]+)`", text):
        if not re.fullmatch(r"(fgmae_bench|tests|experiments|datasets|results|docs)/[\w./-]+(::\w+)?", span):
            continue
        file, _, test = span.partition("::")
        if not re.match(r"datasets/my_|datasets/\w+/data|results/(records|tables|figures)|experiments/.*\*", file):
            assert (REPOSITORY / file).exists(), f"{named(document)}: {span}"
        if test:
            assert f"def {test}(" in (REPOSITORY / file).read_text(), f"{named(document)}: {span}"


@each_document
def test_files_of_the_package_that_are_named_anywhere_exist(document: Path) -> None:
    """In code and comments too; what a page adds is a new file."""
    text = text_of(document)
    added = set(re.findall(r"^`([^`\n]+)`, a new file:", text, re.MULTILINE))
    for file in set(re.findall(r"(?<!/)fgmae_bench/[\w./-]+\.py", text)) - added:
        assert (REPOSITORY / file).is_file(), f"{named(document)}: {file}"


def test_both_readmes_hold_the_same_commands_code_picture_and_figures() -> None:
    english, chinese = text_of(README), text_of(CHINESE)
    assert commands(english) == commands(chinese)
    assert commands(english, "run") == commands(chinese, "run")
    assert [ast.dump(ast.parse(code)) for code in python_blocks(english)] == [
        ast.dump(ast.parse(code)) for code in python_blocks(chinese)
    ]
    assert len(re.findall(r"^#+ ", english, re.MULTILINE)) == len(re.findall(r"^#+ ", chinese, re.MULTILINE))
    assert re.findall(r"!\[[^]]*\]\(([^)]+)\)", english) == re.findall(r"!\[[^]]*\]\(([^)]+)\)", chinese)
    others = {"README.md", "README.zh.md"}
    links = [set(re.findall(r"\]\(([^)]+)\)", text)) for text in (english, chinese)]
    assert links[0] - others == links[1] - others
    assert "README.zh.md" in links[0]
    assert "README.md" in links[1]
    assert measured(english) == measured(chinese) != []


def measured(text: str) -> list[str]:
    """The numbers of the table of measurements, in order."""
    rows = [
        row
        for row in text.splitlines()
        if row.startswith("|") and ("experiments/speed" in row or row.rstrip("| ").endswith(("same", "同上")))
    ]
    return [number for row in rows for number in re.findall(r"\d[\d,.]*\d|\d", row)]


def test_tables_of_recipes_hold_the_numbers_of_the_code() -> None:
    rows = {
        "learning rate": ("lr", "blr"),
        "weight decay": ("weight_decay",),
        "effective batch": ("effective_batch",),
        "epochs": ("epochs", "warmup_epochs"),
        "length": ("max_steps", "warmup_steps"),
        "drop path": ("drop_path",),
        "train view": ("crop_scale",),
    }
    datasets = {"EuroSAT-SAR": "eurosat", "BigEarthNet-S1": "bigearthnet", "DFC2020": "dfc2020"}
    text, compared = text_of(REPOSITORY / "docs" / "protocols.md"), 0
    for module, heading in (
        ("linear", "## `linear_probe`"),
        ("finetune", "## `finetune`"),
        ("segment", "## `segmentation_finetune`"),
    ):
        header, _, *body = [
            line for line in text.split(heading)[1].split("\n## ")[0].splitlines() if line.startswith("|")
        ]
        for column, title in enumerate(header.split("|")[2:-1], 2):
            named_dataset = next((name for words, name in datasets.items() if words in title), None)
            dataset = named_dataset or {"segment": "dfc2020"}.get(module, "eurosat")
            recipe = title.split("`")[1]
            (run,) = compose(module, {"dataset": dataset, "recipe": recipe}, load_card(dataset))
            for line in body:
                cells = line.split("|")
                numbers = {
                    float(n.replace(",", "")) for n in re.findall(r"\d+(?:,\d{3})+|\d*\.?\d+(?:e-?\d+)?", cells[column])
                }
                for start, fields in rows.items():
                    for field in fields if cells[1].strip().startswith(start) else ():
                        stated = vars(run.recipe) | {"effective_batch": run.recipe.batch_size * run.recipe.accum_iter}
                        value = stated.get(field)
                        if value is not None:
                            assert value in numbers, (
                                f"{module} {dataset} {recipe}: {field} is {value}, the table says {cells[column]}"
                            )
                            compared += 1
    assert compared > 40


def test_every_note_of_the_code_is_explained_and_no_other() -> None:
    codes = set()
    for path in (REPOSITORY / "fgmae_bench").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "note"
                and isinstance(node.args[0], ast.Constant)
            ):
                codes.add(node.args[0].value)
    table = text_of(REPOSITORY / "docs" / "records.md").split("## Notes")[1]
    explained = {
        code for row in re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE) for code in re.findall(r"`(\w+)`", row)
    }
    assert explained == codes


@each_own
def test_nothing_names_a_place_of_one_machine(document: Path) -> None:
    assert not re.search(r"(?<![\w.])/(work|home|root|tmp|mnt|Users)/", text_of(document))
