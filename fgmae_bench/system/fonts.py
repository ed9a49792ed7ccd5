"""Letters of every script in pictures: fonts that the machine has for them, no warning a letter where it has none."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Fonts with Chinese, Japanese and Korean letters, which matplotlib's own lacks.
MORE = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei"),
    *("Microsoft YaHei", "SimHei", "PingFang SC", "Hiragino Sans GB", "Arial Unicode MS"),
)


@contextmanager
def letters_of_all_scripts() -> Iterator[None]:
    """While pictures are made and saved; a function that does both takes it as a decorator."""
    import matplotlib
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    families = [*matplotlib.rcParams["font.family"], *(name for name in MORE if name in installed)]
    with matplotlib.rc_context({"font.family": families}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield
