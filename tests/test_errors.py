"""Errors of a user."""

from __future__ import annotations

import pickle

import pytest

from sansref.errors import FileError, did_you_mean


def test_an_error_of_a_file_survives_the_way_from_another_process() -> None:
    error = FileError("a.h5", "is truncated", "Copy it again")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (FileError, "a.h5: is truncated. Copy it again.")
    assert (again.path, again.problem, again.cure) == (error.path, error.problem, error.cure)


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
