from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from sansref.errors import FileError
from sansref.yaml_json import LONGEST_YAML, read_json, read_yaml

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 30)
)
MERGE_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 30)
)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("epochs: 1\nseed: 2\nepochs: 3\n", r"gives 'epochs' twice, again in line 3"),
        ("network:\n  phases: 1\n  phases: 2\n", r"gives 'phases' twice, again in line 3"),
        ("accelerations: {4: {}, 4.0: {}}\n", r"gives '4.0' twice"),
        ("epochs: 1\n'epochs': 1\n", "gives 'epochs' twice"),
        (BOMB, "aliases"),
        (MERGE_BOMB, "aliases"),
        ("a: &a [*a]\n", "contains itself in line 1"),
        ("a: &a\n  b: *a\n", "contains itself"),
        ("a: " + "[" * 5000 + "]" * 5000, "too deeply nested"),
        ("a: !!python/object/apply:os.system ['touch gone']\n", "is not readable YAML"),
        ("a: 2026-13-45\n", "is not readable YAML"),
        ("? [1, 2]\n: 3\n", "is not readable YAML"),
        ("a: 1\n---\nb: 2\n", "is not readable YAML"),
        ("a: " + "9" * 5000, "number of 5000 characters"),
        ("stages: [1", "is not readable YAML"),
        ("", "holds no settings"),
        ("- 1\n", "holds no settings"),
        ("# " + "x" * LONGEST_YAML, "bytes"),
        ("seed: 0x" + "f" * 8000, "number of 8002 characters in line 1"),
        ("a: 1\nseed: 1" + ":59" * 200_000, "number of 600001 characters in line 2"),
        ('seed: !!float "1' + ":59" * 200_000 + '"', "number of 600001 characters"),
    ],
)
def test_yaml_that_cannot_be_meant_is_one_line_within_a_second(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    begun = time.process_time()
    with pytest.raises(FileError, match=problem) as caught:
        read_yaml(path, "Mend it")
    assert time.process_time() - begun < 2
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).endswith("Mend it.")
    assert "\n" not in str(caught.value)


def test_yaml_of_people_is_read(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("templates: {t: &t {a: 1, b: 2}}\nmethods:\n  one: {<<: *t, b: 3}\n  two: *t\nsnr: null\n4: x\n")
    assert read_yaml(path) == {
        "templates": {"t": {"a": 1, "b": 2}},
        "methods": {"one": {"a": 1, "b": 3}, "two": {"a": 1, "b": 2}},
        "snr": None,
        4: "x",
    }
    path.write_bytes(b"\xef\xbb\xbfepochs: 3\n")
    assert read_yaml(path) == {"epochs": 3}


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"[1", "JSON"), (b"[" * 100_000, "JSON"), (b"9" * 5000, "JSON"), (b"\xff\xfe", "UTF-8"), (b"", "JSON")],
)
def test_json_that_cannot_be_read_is_one_line(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "splits.json"
    path.write_bytes(content)
    with pytest.raises(FileError, match=rf"{re.escape(str(path))}: .*{problem}.*Mend it"):
        read_json(path, "Mend it")


@pytest.mark.parametrize("read", [read_json, read_yaml])
def test_nothing_waits_for_what_is_no_file(tmp_path: Path, read) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    for name in ("fifo", "zeros", "."):
        with pytest.raises(FileError, match="is not a regular file"):
            read(tmp_path / name, "Mend it")
    with pytest.raises(FileError, match="cannot be read"):
        read(tmp_path / "nothing", "Mend it")
