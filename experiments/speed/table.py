"""The tables of speed in both READMEs, from the numbers that the benchmarks of this folder left in results/speed.

  python experiments/speed/table.py [--check]
One column a machine, a dash where a comparison has not run there. With --check nothing is written, and the exit code is
1 where a README is not what it would be. To measure: `make bench`, on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from measured import ROOT, machines

BEGIN, END = "<!-- speed: made by experiments/speed/table.py -->", "<!-- /speed -->"
READMES = {"README.md": 0, "README.zh.md": 1}
HEADS = (("comparison", "command"), ("比较", "命令"))


class Line(NamedTuple):
    """A line of the table: its words in both languages, the script, names of its numbers, and how they are shown."""

    words: tuple[str, str]
    script: str
    names: tuple[str, ...]
    shown: Callable[..., str]


def _times(ratio: float) -> str:
    return f"{ratio:.2f} ×" if ratio < 3 else f"{ratio:.1f} ×"


def _views(ratio: float, ours: float, naive: float) -> str:
    return f"{_times(ratio)} ({ours:,.0f} / {naive:,.0f} /s)"


def _seconds(*values: float) -> str:
    return "; ".join(f"{value:.2f} s" if value < 10 else f"{value:.0f} s" for value in values)


def _mib(*values: float) -> str:
    return "; ".join(f"{value / 2**20:.0f} MiB" for value in values)


def _both(*values: float) -> str:
    return "; ".join(_times(value) for value in values)


def _rates(*values: float) -> str:
    return "; ".join(f"{value:,.0f}" for value in values)


def _share(value: float) -> str:
    return f"{value:.1%}"


LINES = (
    Line(
        ("quantile view against per-sample `np.quantile`, one core", "分位数视图，对比逐样本 `np.quantile`，单核"),
        "views.py",
        ("view_ratio", "view_ours", "view_naive"),
        _views,
    ),
    Line(
        ("the same with a tenth of the pixels invalid, against clean images", "十分之一像元无效，对比无缺失的图像"),
        "views.py",
        ("view_invalid",),
        _times,
    ),
    Line(
        (
            "first cached probe of 50 epochs against the bare forward passes, 2,000 images; 500",
            "首次缓存特征的线性探测 50 轮，对比单纯的前向计算，2,000 张；500 张",
        ),
        "cached_probe.py",
        ("cached_many", "cached_few"),
        _both,
    ),
    Line(
        (
            "the same of 500 images as whole processes, imports included, against a timm script",
            "同上，500 张，整个进程（含导入），对比 timm 脚本",
        ),
        "cached_probe.py",
        ("cached_process",),
        _times,
    ),
    Line(
        (
            "grid of 16 learning rates against one, 500 images, bank cold",
            "16 个学习率的网格对比一个，500 张，特征库为空",
        ),
        "cached_probe.py",
        ("grid_ratio",),
        _times,
    ),
    Line(
        (
            "streamed epoch; fine-tuning; UPerNet from files, each against its bare passes",
            "流式读取的一轮；微调；从文件训练 UPerNet，各自对比单纯的计算",
        ),
        "bare.py",
        ("bare_stream", "bare_finetune", "bare_segment"),
        _both,
    ),
    Line(
        ("streamed epoch against a naive loop, float32; bf16", "流式读取的一轮，对比朴素循环，float32；bf16"),
        "stream_epoch.py",
        ("stream_off", "stream_bf16"),
        _both,
    ),
    Line(
        ("naive float32 against our default", "朴素 float32 对比我们的默认设置"),
        "stream_epoch.py",
        ("stream_default",),
        _times,
    ),
    Line(
        ("fine-tuning steps of ViT-S against a naive loop, float32; bf16", "ViT-S 微调步，对比朴素循环，float32；bf16"),
        "finetune_epoch.py",
        ("finetune_off", "finetune_bf16"),
        _both,
    ),
    Line(
        ("naive float32 against our default", "朴素 float32 对比我们的默认设置"),
        "finetune_epoch.py",
        ("finetune_default",),
        _times,
    ),
    Line(
        (
            "frozen UPerNet from the bank against the decoder alone, an epoch",
            "特征库上的冻结 UPerNet 一轮，对比只跑解码器",
        ),
        "segment_bank.py",
        ("segment_bank",),
        _times,
    ),
    Line(
        (
            "each of the frozen decode heads from the bank against the head alone, CPU seconds: median; largest",
            "每个冻结主干的解码头在特征库上，对比只跑该解码头，CPU 秒数：中位数；最大值",
        ),
        "heads.py",
        ("heads_median", "heads_largest"),
        _both,
    ),
    Line(
        (
            "label schemes mapped from the bank against a file and a look-up each",
            "从标签库映射标签方案，对比逐文件读取加查表",
        ),
        "label_mapping.py",
        ("label_mapping",),
        _times,
    ),
    Line(
        ("anonymous memory of 1,000 and 8,000 images", "匿名内存，1,000 张与 8,000 张"),
        "memory.py",
        ("memory_small", "memory_large"),
        _mib,
    ),
    Line(
        ("`linear --help`; `report` without records", "`linear --help`；没有记录时的 `report`"),
        "startup.py",
        ("startup_help", "startup_report"),
        _seconds,
    ),
    Line(
        (
            "packing BigEarthNet patches against the usual way, float32; uint8",
            "打包 BigEarthNet 图块，对比通常做法，float32；uint8",
        ),
        "packing.py",
        ("pack_float32", "pack_uint8"),
        _both,
    ),
    Line(
        ("reading them with the training view, float32; uint8", "用训练视图读取，float32；uint8"),
        "packing.py",
        ("read_float32", "read_uint8"),
        _both,
    ),
    Line(
        ("tables, figures and page of 1,000 records; of 10,000", "1,000 条记录的表格、图和网页；10,000 条"),
        "report.py",
        ("report_1000", "report_10000"),
        _seconds,
    ),
    Line(
        (
            "kNN and logistic regression against a timm and scikit-learn script",
            "kNN 与逻辑回归，对比 timm 加 scikit-learn 脚本的总时间",
        ),
        "peers.py",
        ("peers_ratio",),
        _times,
    ),
)
# Of machines with a GPU; a table without such a machine leaves them out.
GPU_LINES = (
    Line(
        ("ViT-S; B; L forward in bf16, images/s", "ViT-S、B、L 前向计算（bf16），张/秒"),
        "gpu.py",
        ("gpu_forward_small", "gpu_forward_base", "gpu_forward_large"),
        _rates,
    ),
    Line(
        ("share of the measured bf16 peak, ViT-L forward", "占实测 bf16 峰值的比例，ViT-L 前向计算"),
        "gpu.py",
        ("gpu_share_large",),
        _share,
    ),
    Line(
        ("bare training step of ViT-S; B; L in bf16, images/s", "ViT-S、B、L 训练步（bf16），张/秒"),
        "gpu.py",
        ("gpu_step_small", "gpu_step_base", "gpu_step_large"),
        _rates,
    ),
    Line(
        ("streamed epoch of ViT-S against its bare forward passes", "ViT-S 流式读取的一轮，对比单纯的前向计算"),
        "gpu.py",
        ("gpu_stream",),
        _times,
    ),
    Line(("waiting for data there", "其中等待数据的比例"), "gpu.py", ("gpu_wait_stream",), _share),
)


def table(language: int, held: list[dict[str, Any]]) -> str:
    """The table as Markdown, in one of the two languages."""
    what, command = HEADS[language]
    rows = [f"| {what} | {' | '.join(one['machine'] for one in held)} | {command} |", "|---" * (len(held) + 2) + "|"]
    measured = {name for one in held for name in one["measured"]}
    for line in (*LINES, *(line for line in GPU_LINES if measured.intersection(line.names))):
        cells = []
        for one in held:
            values = [one["measured"].get(name, {}).get("value") for name in line.names]
            cells.append("–" if None in values else line.shown(*values))
        rows.append(f"| {line.words[language]} | {' | '.join(cells)} | `python experiments/speed/{line.script}` |")
    return "\n".join(rows)


def with_table(text: str, made: str) -> str:
    """A document with the table between its two marks. Raises SystemExit where it has none."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"error: the marks {BEGIN} and {END} are missing; put them where the table belongs")
    return f"{before}{BEGIN}\n{made}\n{END}{after}"


def main() -> None:
    """Write both tables, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where a table is stale")
    options = parser.parse_args()
    held, stale = machines(), []
    for name, language in READMES.items():
        path = Path(ROOT) / name
        text = path.read_text(encoding="utf-8")
        made = with_table(text, table(language, held))
        if made != text:
            stale.append(name)
            if not options.check:
                path.write_text(made, encoding="utf-8")
    print(f"{'stale' if options.check else 'written'}: {', '.join(stale)}" if stale else "nothing has changed")
    sys.exit(1 if options.check and stale else 0)


if __name__ == "__main__":
    main()
