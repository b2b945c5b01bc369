from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sansref.data.readers import FileInfo, open_scan_file
from sansref.data.readers import damage as isolated_module
from sansref.data.readers.damage import ChildLimits, IsolatedReader, in_child, reading
from sansref.data.readers.fastmri import FastMRIReader
from sansref.errors import FileError, SettingError
from sansref.scan import Scan

QUICK = ChildLimits(computing=0.5, waiting=120)
PATH = Path("a.h5")


@dataclass
class Misbehaving:
    """A reader whose third slice does ``act``."""

    act: Callable[[], Any]

    def describe(self, path: Path) -> FileInfo:
        return self.act()

    def read(self, path: Path, slices: Sequence[int] | None = None) -> Iterator[Any]:
        yield from (0, 1)
        yield self.act()


def spin() -> None:
    while True:
        pass


def spin_in_c() -> None:
    np.linalg.eigvals(np.random.default_rng(0).random((3000, 3000)))


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def test_the_same_slices_and_description(make: Any, tmp_path: Path) -> None:
    path = make.fastmri(tmp_path / "a.h5", make.kspace((3, 64, 37)))
    here, there = FastMRIReader(), IsolatedReader(FastMRIReader())
    assert there.describe(path) == here.describe(path)
    for mine, own in zip(there.read(path, [2, 0]), here.read(path, [2, 0]), strict=True):
        assert isinstance(mine, Scan)
        assert mine.meta == own.meta
        assert torch.equal(mine.kspace, own.kspace)
        assert torch.equal(mine.mask, own.mask)
        assert own.reference is not None
        assert mine.reference is not None
        assert torch.equal(mine.reference, own.reference)


@pytest.mark.parametrize(
    ("act", "limits", "message"),
    [
        (spin, QUICK, "keeps the library that reads it busy for more than 0.5 s; the file is damaged. Copy"),
        (spin_in_c, QUICK, "keeps the library that reads it busy"),
        (
            lambda: time.sleep(60),
            ChildLimits(0.5, waiting=4),
            "gives no answer within 2.0 s; it is damaged, or its disk slow",
        ),
        (crash, QUICK, r"makes the library that reads it crash \(SIGSEGV\); the file is damaged"),
        (os.abort, QUICK, r"give up \(SIGABRT\); it is damaged, or needs more memory than is free"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), QUICK, "filled the memory while it was read"),
        (lambda: os._exit(3), QUICK, r"makes the library that reads it crash \(exit 3\)"),
    ],
)
def test_a_library_that_hangs_or_dies_is_an_error_of_the_file(
    make: Any, act: Any, limits: ChildLimits, message: str
) -> None:
    reader = IsolatedReader(Misbehaving(act), limits)
    gc.collect()
    before = make.descriptors()
    with pytest.raises(FileError, match=message) as caught:
        reader.describe(PATH)
    assert str(caught.value).startswith("a.h5: ")
    found = reader.read(PATH)
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(FileError, match=message):
        next(found)
    assert make.descriptors() <= before


def test_errors_keep_their_kind() -> None:
    def fail(error: BaseException) -> Any:
        raise error

    with pytest.raises(FileError, match=r"b\.h5: is bad\. Repair it") as caught:
        in_child(PATH, lambda: fail(FileError("b.h5", "is bad", "Repair it")))
    assert (caught.value.path, caught.value.problem, caught.value.cure) == (Path("b.h5"), "is bad", "Repair it")
    with pytest.raises(SettingError, match="no"):
        in_child(PATH, lambda: fail(SettingError("no")))
    with pytest.raises(KeyError, match="bug") as bug:
        in_child(PATH, lambda: fail(KeyError("bug")))
    assert "in fail" in bug.value.__notes__[0]
    with pytest.raises(RuntimeError, match="reading ended with SystemExit"):
        in_child(PATH, lambda: fail(SystemExit(1)))


class TwoWordsError(Exception):
    """Cannot be unpickled: its arguments are not those it is made of."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


def test_errors_that_cannot_be_sent_are_told() -> None:
    def fail() -> Any:
        error = TwoWordsError("a", "bug")
        error.handle = threading.Lock()  # type: ignore[attr-defined]
        raise error

    with pytest.raises(RuntimeError, match="TwoWordsError: abug"):
        in_child(PATH, fail)


def test_the_child_answers_signals_in_its_own_way_and_the_parent_as_before() -> None:
    def signals() -> Any:
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C does to both
        return len(blocked), signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert in_child(PATH, signals) == (0, signal.SIG_IGN, signal.SIG_DFL)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_a_death_is_noticed_although_other_children_live() -> None:
    """Children that are made in other threads at the same time must not hold the pipe of the dead one."""
    deaths: list[float] = []
    waits, release = os.pipe()

    def die() -> None:
        begin = time.monotonic()
        with pytest.raises(FileError, match="SIGSEGV"):
            in_child(PATH, crash, QUICK)
        deaths.append(time.monotonic() - begin)

    dying = [threading.Thread(target=die) for _ in range(12)]
    living = [threading.Thread(target=lambda: in_child(PATH, lambda: os.read(waits, 1), QUICK)) for _ in range(4)]
    for thread in (*dying, *living):
        thread.start()
    for thread in dying:
        thread.join()
    os.write(release, bytes(4))  # not closed: the children hold that end, too
    for thread in living:
        thread.join()
    os.close(waits)
    os.close(release)
    assert len(deaths) == 12
    assert max(deaths) < 30  # a death that is not noticed would be waited for 60 s


def test_a_child_may_have_a_child() -> None:
    assert in_child(PATH, lambda: in_child(PATH, lambda: 7, QUICK), QUICK) == 7


def test_memory_is_limited() -> None:
    def fill() -> Any:
        return np.ones(1 << 30, np.uint8)[0]

    assert in_child(PATH, lambda: np.ones(1 << 20, np.uint8)[0], ChildLimits(memory=1 << 28)) == 1
    with pytest.raises(FileError, match="needs more memory to be read than is free"):
        in_child(PATH, fill, ChildLimits(memory=1 << 28))


def test_a_child_takes_no_more_memory_than_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated_module, "available_memory", lambda: 1 << 28)
    assert ChildLimits().of(PATH).memory == 1 << 28
    assert ChildLimits(memory=1 << 20).of(PATH).memory == 1 << 20
    with pytest.raises(FileError, match="needs more memory"):
        in_child(PATH, lambda: np.ones(1 << 30, np.uint8)[0])


@pytest.mark.parametrize("words", ["std::bad_alloc", "Can't read data (memory allocation failed for raw data chunk)"])
def test_libraries_may_say_in_words_that_memory_ran_out(words: str) -> None:
    def fail() -> Any:
        with reading(PATH, "tests"):
            raise OSError(words)

    for call in (fail, lambda: in_child(PATH, fail)):
        with pytest.raises(FileError, match="needs more memory") as caught:
            call()
        assert "damaged" not in str(caught.value)


def test_the_child_ends_with_the_iterator(make: Any, tmp_path: Path) -> None:
    path = make.fastmri(tmp_path / "a.h5", make.kspace((3, 64, 37)))
    gc.collect()
    before = make.descriptors()
    found = IsolatedReader(FastMRIReader()).read(path)
    next(iter(found))
    del found
    gc.collect()
    assert make.descriptors() <= before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_readers_may_take_turns_and_work_in_threads(make: Any, tmp_path: Path) -> None:
    paths = [make.fastmri(tmp_path / f"{n}.h5", make.kspace((2, 64, 37), seed=n)) for n in range(3)]
    reader = IsolatedReader(FastMRIReader())
    for scans in zip(*(reader.read(path) for path in paths), strict=True):
        assert [scan.meta.source for scan in scans] == [str(path) for path in paths]
    sums: dict[int, int] = {}

    def count(number: int) -> None:
        sums[number] = sum(1 for _ in reader.read(paths[number]))

    threads = [threading.Thread(target=count, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sums == {0: 2, 1: 2, 2: 2}


def free_space(content: bytes) -> int:
    """Where the size of the free space in the heap stands: a heap object of number 0, after those with texts."""
    place = content.index(b"GCOL") + 16
    while number := int.from_bytes(content[place : place + 2], "little"):
        assert number < 10
        place += 16 + (int.from_bytes(content[place + 8 : place + 16], "little") + 7) // 8 * 8
    return place + 8


def test_a_heap_that_makes_libhdf5_loop_for_ever(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated_module, "LIMITS", QUICK)
    path = make.fastmri(tmp_path / "a.h5", make.kspace((1, 64, 37)))
    content = bytearray(path.read_bytes())
    place = free_space(content)
    content[place : place + 8] = bytes(8)
    path.write_bytes(content)
    with pytest.raises(
        FileError, match=r"keeps the library that reads it busy for more than 0.5 s; the file is damaged"
    ):
        open_scan_file(path).describe(path)


@pytest.fixture(scope="module")
def files(make: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bytes]]:
    """A file to write to, and what valid files hold: fastMRI with a header in the heap, and named arrays."""
    path = tmp_path_factory.mktemp("fuzz") / "a.h5"
    contents = [make.fastmri(path, make.kspace((1, 32, 20)), mask=np.ones(20)).read_bytes()]
    with h5py.File(path, "w") as file:
        pairs = np.ones((3, 8, 9), [("real", "f8"), ("imag", "f8")])
        file.create_dataset("ksp", data=pairs, chunks=(1, 8, 9), compression="gzip")
        file["ksp"].attrs["MATLAB_class"] = np.bytes_(b"double")
        file["texts"] = ["one", "two"]
    return path, [*contents, path.read_bytes()]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), kind=st.sampled_from([0, 1]))
def test_damage_anywhere_gives_a_file_error_or_valid_scans(
    make: Any, files: tuple[Path, list[bytes]], data: st.DataObject, kind: int
) -> None:
    path, content = files[0], files[1][kind]
    heap, last = content.index(b"GCOL"), len(content) - 1
    place = st.integers(0, min(2500, last)) | st.integers(heap, min(heap + 100, last)) | st.integers(0, last)
    path.write_bytes(make.damaged(data, content, place))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(isolated_module, "LIMITS", QUICK)
        info = make.read_or_refuse(path)
    assert info is None or info.kind == "k-space"
