"""The TOML of a card that is drafted."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fgmae_bench.prepare.card_signal import SignalDraft

if TYPE_CHECKING:
    from fgmae_bench.prepare.card_plan import Plan

Section = tuple[str, list[str]]  # heading, lines


@dataclass(kw_only=True)
class Draft:
    """A card as it will be written."""

    plan: Plan
    signal: SignalDraft
    name: str
    train: int = 0  # images for training under the recommended split

    def text(self, splits: dict[str, tuple[dict[str, Any], str]]) -> str:
        """The TOML of the card with splits, each with its remark; the last is the usual and recommended one."""
        plan, names = self.plan, list(splits)
        top = [
            "# A draft by `prepare card`. GUESSED and EDIT mark what the files do not say; an unknown key is an error.",
            f"name = {_quoted(self.name)}",
            f"title = {_quoted(plan.root.resolve().name or self.name)}",
            "version = 1                        # raise it when a fact changes that can change a number",
            f"task = {_quoted(plan.task)}",
        ]
        if plan.kind != "table" and not plan.options:
            top.append(f"layout = {_quoted(plan.kind)}")
        if plan.task != "regression":
            top.append(f"classes = {_listed(plan.classes)}")
        top += [f"default_split = {_quoted(names[-1])}", f"recommended_split = {_quoted(names[-1])}"]
        sections: list[Section] = [("", top)]
        if plan.options:
            lines = [
                f"kind = {_quoted(plan.kind)}",
                *(f"{key} = {_value(value)}" for key, value in plan.options.items()),
            ]
            sections.append(("layout", lines))
        elif "layout" in plan.remarks:
            top += [f"# {text}" for text in plan.remarks["layout"]]
        sections.append(("signal", self._signal()))
        sections += self._labels()
        for name, (facts, remark) in splits.items():
            lines = [f"# {remark}"] if remark else []
            sections.append((f"splits.{name}", [*lines, *(f"{key} = {_value(value)}" for key, value in facts.items())]))
        sections.append(
            (
                "origin",
                ['url = "unstated"', 'licence = "unstated"', "# citation, and get: the command that gets the data"],
            )
        )
        failed = [f"# {_flat(text)}" for text in plan.remarks.get("splits", [])]
        texts = [self._section(*section) for section in sections]
        return "\n\n".join([*texts[:-1], *(["\n".join(failed)] if failed else []), texts[-1]]) + "\n"

    def _section(self, heading: str, lines: list[str]) -> str:
        remarks = [f"# {text}" for text in self.plan.remarks.get(heading.partition(".")[0] if heading else "-", [])]
        head = [f"[{heading}]"] if heading else []
        if heading.startswith("splits"):
            remarks = []
        return "\n".join([*head, *map(_flat, remarks), *lines])

    def _signal(self) -> list[str]:
        lines = [_flat(f"# {text}") for text in self.signal.evidence]
        for key, (value, remark) in self.signal.lines.items():
            lines.append(f"{key} = {value}{'  # ' + _flat(remark) if remark else ''}")
        if self.plan.folder:
            lines.append(f"folder = {_quoted(self.plan.folder)}")
        return lines

    def _labels(self) -> list[Section]:
        plan, found = self.plan, []
        if plan.kind == "paired_folders" or plan.label_folder:
            lines = [f"folder = {_quoted(plan.label_folder)}"]
            if plan.codes:
                lines.append(f"codes = {_value(plan.codes)}")
            if plan.ignore:
                lines.append(f"ignore = {[int(value) if value == round(value) else value for value in plan.ignore]}")
            lines += [f"{key} = {_value(value)}" for key, value in plan.label_facts.items()]
            found.append((f"label_sources.{_key(plan.label_folder or 'masks')}", lines))
        if plan.before:
            found.append(("before", [f"{key} = {_value(value)}" for key, value in plan.before.items()]))
        if plan.task == "regression":
            found.append(("target", [f"name = {_quoted(plan.target)}", 'unit = ""']))
        counted = len(plan.images)
        if plan.task == "single_label" and plan.per_class and plan.kind == "class_folders":
            found.append(("counts", [f"total = {sum(plan.per_class.values())}"]))
            found.append(("counts.per_class", [f"{_quoted(name)} = {count}" for name, count in plan.per_class.items()]))
        elif plan.kind == "paired_folders" and not plan.stated:
            found.append(("counts", [f"total = {counted}"]))
        return found


def _quoted(text: str) -> str:
    """A basic string of TOML."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _listed(items: list[str]) -> str:
    """A list of strings, over several lines where it is long."""
    flat = ", ".join(map(_quoted, items))
    return f"[{flat}]" if len(flat) < 90 else "[\n" + "".join(f"    {_quoted(item)},\n" for item in items) + "]"


def _value(value: Any) -> str:
    """A value as TOML."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return _quoted(value) if isinstance(value, str) else json.dumps(value)


def _key(name: str) -> str:
    """A key of TOML, bare where that will do."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _quoted(name)


def _flat(text: str) -> str:
    """A remark on one line, without what a comment of TOML may not hold."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
