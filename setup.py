"""Puts the cards of `datasets/` and their tables into the wheel: what `fgmae_bench.config.cards` finds without a
repository around it.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithCards(build_py):
    """build_py that also copies `datasets/*/card.toml` and `*.csv` to `fgmae_bench/_cards/`."""

    def run(self) -> None:
        """Build, then copy."""
        super().run()
        if self.editable_mode:
            return
        for card in sorted(Path(__file__).resolve().parent.glob("datasets/*/card.toml")):
            target = Path(self.build_lib) / "fgmae_bench" / "_cards" / card.parent.name
            target.mkdir(parents=True, exist_ok=True)
            for file in (card, *sorted(card.parent.glob("*.csv"))):
                self.copy_file(str(file), str(target / file.name))


setup(cmdclass={"build_py": BuildWithCards})
