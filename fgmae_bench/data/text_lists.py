"""Lists as people keep them, one name a line: packed or not, with the marks and line ends of any system."""

from __future__ import annotations

import bz2
from pathlib import Path

from fgmae_bench.errors import BenchError


def read_lines(path: Path) -> list[tuple[int, str]]:
    """(number from 1, text without the spaces around it) of each line that holds anything; `.bz2` is unpacked.

    Raises BenchError naming the file when it cannot be read or unpacked, or is no UTF-8 text.
    """
    try:
        content = path.read_bytes()
        text = (bz2.decompress(content) if path.suffix == ".bz2" else content).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BenchError(f"{path}: cannot be read as a list (no UTF-8 text: {error.reason})", "save it as UTF-8") from error
    except (OSError, ValueError, EOFError) as error:
        raise BenchError(f"{path}: cannot be read as a list ({error})", "replace the file") from error
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
