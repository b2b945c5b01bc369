"""Errors of a user."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

import sansref
from sansref.errors import FileError, did_you_mean, told


def test_an_error_of_a_file_survives_the_way_from_another_process() -> None:
    error = FileError("a.h5", "is truncated", "Copy it again")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (FileError, "a.h5: is truncated. Copy it again.")
    assert (again.path, again.problem, again.cure) == (error.path, error.problem, error.cure)


def test_a_row_of_a_strangers_words_is_one_line_without_codes_of_the_terminal() -> None:
    assert told(("test", "\x1b]0;owned\x07\x1b[31mred\nsub-02")) == f"{'test':<16}]0;owned [31mred sub-02"


def test_no_message_advises_to_install_this_package_from_an_index() -> None:
    """No index may have it; the package that is missing is named."""
    sources = [path.read_text(encoding="utf-8") for path in Path(sansref.__file__).parent.rglob("*.py")]
    assert len(sources) > 100
    assert not [text for text in sources if "'sansref[" in text]
    advised = {name for text in sources for name in re.findall(r"pip install '?([\w\[\]]+)", text)}
    assert {"ismrmrd", "pydicom", "twixtools", "PyWavelets", "ray[data]"} <= advised


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("epoch", ": did you mean epochs?"),
        ("EPOCHS", ": did you mean epochs?"),
        ("learning-rate", ": did you mean learning_rate?"),
        ("lr", ": did you mean learning_rate?"),
        ("phases", ": did you mean network.phases?"),
        ("accel", ": did you mean acceleration or accelerator?"),
        ("batch", ""),
        ("x", ""),
        ("", ""),
    ],
)
def test_a_near_name_is_proposed(word, said):
    names = ["epochs", "learning_rate", "network.phases", "acceleration", "accelerator"]
    assert did_you_mean(word, names) == said
    assert did_you_mean("zzz", names, "use one") == ": use one"
    assert did_you_mean("epoch", names, "use one", "--") == ": did you mean --epochs? Use one"
