"""Errors of a user."""

from __future__ import annotations

import pickle

from sansref.errors import FileError


def test_an_error_of_a_file_survives_the_way_from_another_process() -> None:
    error = FileError("a.h5", "is truncated", "Copy it again")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (FileError, "a.h5: is truncated. Copy it again.")
    assert (again.path, again.problem, again.cure) == (error.path, error.problem, error.cure)
