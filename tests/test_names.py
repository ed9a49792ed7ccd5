"""Names of flags and protocols: each stands for code that is there. That a new one is a line is tried in test_adding.py."""

import pytest

from fgmae_bench.config.names import ENGINES, FITTED_HEADS, HEADS, NORMS, OPTIMIZERS, PROBES, code_of, listed
from fgmae_bench.errors import BenchError


@pytest.mark.parametrize("table", [ENGINES, FITTED_HEADS, HEADS, NORMS, OPTIMIZERS])
def test_every_name_has_code(table):
    assert all(callable(code_of("name", name, table)) for name in table)


def test_an_unknown_name_is_refused_with_the_closest():
    with pytest.raises(BenchError, match="unknown head 'upernt'; did you mean 'upernet'"):
        code_of("head", "upernt", HEADS)


def test_words_are_listed_as_in_a_sentence():
    assert listed(PROBES.values()) == (
        "linear probe by SGD, logistic regression, nearest neighbours, ridge regression, of a number, "
        "the checkpoint's own head, or the texts of the classes (--class_text)"
    )
    assert listed([HEADS["upernet"]]) == "UPerNet"
