"""Reading values out of an ISMRMRD XML header without trusting it."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

from sansref.errors import FileError, printable

#: Characters of a header; real ones have some ten thousand.
MOST_TEXT = 4 * 2**20


class HeaderXml:
    """The XML document of an ISMRMRD header, in any or no namespace.

    Parameters
    ----------
    source
        The file (or sender) that holds it, for error messages.
    text
        The document.
    cure
        What the user can do about a header that cannot be used.

    Raises
    ------
    FileError
        If it is too long, is not XML, or declares a document type (entities could expand without bound).
    """

    def __init__(self, source: Path | str, text: str, cure: str) -> None:
        self._source = source
        self._cure = cure
        if len(text) > MOST_TEXT:
            raise self.error(f"of {len(text)} characters, more than {MOST_TEXT}")
        if "<!DOCTYPE" in text.upper():
            raise self.error("with a document type declaration, which is unsafe")
        try:
            self._root = ElementTree.fromstring(text.rstrip("\0"))
        except (ElementTree.ParseError, ValueError) as error:
            raise self.error(f"that is not XML ({error})") from error

    def error(self, problem: str) -> FileError:
        """A ``FileError``: the source "has an ISMRMRD header ``problem``"."""
        return FileError(self._source, f"has an ISMRMRD header {problem}", self._cure)

    def count(self, name: str) -> int:
        """How many elements there are of this name, such as ``encoding``."""
        return len(self._root.findall(_any_namespace(name)))

    def bring_first(self, name: str, index: int) -> None:
        """Let one of the elements of this name, from 0, come before the others: it is the one that is read."""
        found = self._root.findall(_any_namespace(name))
        if index >= max(len(found), 1):
            raise self.error(f"with {len(found)} x {name}, while acquisitions refer to number {index + 1}")
        if index:
            self._root.remove(found[index])
            self._root.insert(0, found[index])

    def text(self, name: str) -> str | None:
        """One printable line of text, None where the element is missing or empty."""
        value = self._root.findtext(_any_namespace(name))
        return printable(value) or None if value is not None else None

    def whole(self, name: str, least: int, default: int | None = None) -> int:
        """A whole number of at least ``least``; ``default`` (None: an error) where the element is missing."""
        value = self.text(name)
        if value is None and default is not None:
            return default
        try:
            number = int(self._needed(name, value))
        except ValueError:
            number = least - 1
        if number < least:
            raise self._unusable(name, value, f"a whole number from {least}")
        return number

    def millimetres(self, name: str) -> float:
        """A positive, finite length."""
        value = self.text(name)
        try:
            number = float(self._needed(name, value))
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            raise self._unusable(name, value, "a positive length in millimetres")
        return number

    def _needed(self, name: str, value: str | None) -> str:
        if value is None:
            raise self.error(f"without {name}")
        return value

    def _unusable(self, name: str, value: str | None, expected: str) -> FileError:
        return self.error(f"where {name} is {(value or '')[:40]!r}, not {expected}")


def _any_namespace(name: str) -> str:
    # "{*}" matches any namespace and none.
    return "/".join(f"{{*}}{part}" for part in name.split("/"))
