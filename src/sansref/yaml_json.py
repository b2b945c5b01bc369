"""YAML and JSON of files that anybody may have written: bounded, never executed, every mistake in one line."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Hashable
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml

from sansref.errors import FileError, printable

LONGEST = 64 << 20
"""Bytes of a file of lists, such as the names of a data folder."""

LONGEST_YAML = 1 << 20
"""Bytes of a file of settings; the largest that people write are a hundredth of that."""

MOST_VALUES = 100_000
"""Values that a file of settings may stand for, with every alias written out."""

DEEPEST = 50
"""Brackets that may be open at a time; PyYAML takes seconds to give up on thousands."""

LONGEST_NUMBER = 400
"""Characters of a number; to make one of a million takes minutes, and Python refuses to write it."""

MERGE = "tag:yaml.org,2002:merge"
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def read_text(path: Path, cure: str, longest: int = LONGEST) -> str:
    """Read a text file of at most so many bytes; a link is followed. The cure is that of a :class:`FileError`.

    Raises ``FileError`` if it does not exist, no regular file (which might never end), too long, or no UTF-8.
    """
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            raise FileError(path, "is not a regular file", cure)
        if state.st_size > longest:
            raise FileError(path, f"has {state.st_size} bytes, at most {longest} are expected", cure)
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise FileError(path, f"cannot be read ({error.strerror or error})", cure) from None
    except UnicodeDecodeError:
        raise FileError(path, "is not UTF-8 text", cure) from None


def read_json(path: Path, cure: str) -> Any:
    """Read a JSON file as :func:`read_text` does, and raise ``FileError`` if it cannot be read."""
    text = read_text(path, cure)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise FileError(path, "is not readable JSON", cure) from None


def read_yaml(path: Path, cure: str = "Correct the file") -> dict[str, Any]:
    """Read a YAML file of settings by name, in plain values alone.

    Raises ``FileError`` if it cannot be read, is no YAML, holds no settings, gives one of them twice, holds an endless
    number, or is made to grow without bounds by its aliases.
    """
    text = read_text(path, cure, LONGEST_YAML)
    opened = accumulate(1 if bracket in "[{" else -1 for bracket in re.findall(r"[][{}]", text))
    if max(opened, default=0) > DEEPEST:
        raise FileError(path, "is not readable YAML (too deeply nested)", cure)
    loader = yaml.SafeLoader("")
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is not None:
            _check(path, loader, node, cure)
        values = None if node is None else loader.construct_document(node)
    # Dates such as 2026-13-45 are a ValueError, keys that are lists a TypeError.
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        problem = "too deeply nested" if isinstance(error, RecursionError) else printable(str(error))
        raise FileError(path, f"is not readable YAML ({problem})", cure) from None
    finally:
        loader.dispose()
    if not isinstance(values, dict):
        raise FileError(path, "holds no settings", cure)
    return values


def _check(path: Path, loader: yaml.SafeLoader, root: yaml.Node, cure: str) -> None:
    """Refuse keys given twice, endless numbers, and aliases that stand for too much, before any value is made."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size_of(node: yaml.Node) -> int:
        if id(node) in sizes:
            return sizes[id(node)]
        if id(node) in open_nodes:
            raise FileError(path, f"contains itself in line {node.start_mark.line + 1} through an alias", cure)
        open_nodes.add(id(node))
        size = 1
        if isinstance(node, yaml.ScalarNode) and node.tag in NUMBERS and len(node.value) > LONGEST_NUMBER:
            problem = f"holds a number of {len(node.value)} characters in line {node.start_mark.line + 1}"
            raise FileError(path, problem, cure)
        if isinstance(node, yaml.SequenceNode):
            size += sum(size_of(item) for item in node.value)
        elif isinstance(node, yaml.MappingNode):
            seen = set[Hashable]()
            for key, value in node.value:
                size += size_of(key) + size_of(value)
                if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE:
                    continue
                name = loader.construct_object(key)
                if name in seen:
                    said = printable(str(name))
                    raise FileError(path, f"gives {said!r} twice, again in line {key.start_mark.line + 1}", cure)
                seen.add(name)
        if size > MOST_VALUES:
            raise FileError(path, f"expands to more than {MOST_VALUES} values through its aliases", cure)
        open_nodes.discard(id(node))
        sizes[id(node)] = size
        return size

    size_of(root)
