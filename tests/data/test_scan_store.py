from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sansref.data.scan_store import ArrayStore, ArrayWriter
from sansref.errors import FileError
from sansref.files import atomic_folder

SHAPES = [(1, 6, 5), (3, 4, 7), (), (2,), (1, 6, 5)]


def arrays(dtype: torch.dtype = torch.complex64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, dtype=torch.complex64, generator=generator) for shape in SHAPES]
    return [value.to(dtype) if dtype.is_complex else (10 * value.real).to(dtype) for value in values]


def write(folder: Path, dtype: str = "complex64", values: list[Tensor] | None = None) -> ArrayStore:
    with ArrayWriter(folder, dtype) as writer:
        for value in arrays() if values is None else values:
            writer.append(value)
    return ArrayStore(folder)


@pytest.mark.parametrize("name", ["complex64", "float32", "bool", "int16", "float64"])
def test_arrays_of_any_shape_come_back_as_they_were(tmp_path: Path, name: str) -> None:
    dtype = getattr(torch, name)
    values = arrays(dtype)
    store = write(tmp_path / "new" / "store", name, values)
    assert len(store) == len(values)
    assert store.shapes == SHAPES
    for item in (3, 0, 1, 2, 4, 0, -1):
        assert store[item].dtype == dtype
        assert torch.equal(store[item], values[item])


def test_views_gradients_and_other_precisions_are_stored_by_value(tmp_path: Path) -> None:
    value = torch.randn(4, 3, dtype=torch.complex128, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (found,) = write(tmp_path, values=[value.T.conj()])
    torch.testing.assert_close(found, value.detach().T.conj().to(torch.complex64))


def test_items_are_copies_that_may_be_changed(tmp_path: Path) -> None:
    store = write(tmp_path)
    store[0].zero_()
    assert torch.equal(store[0], arrays()[0])


def test_it_can_be_walked_through_and_ends(tmp_path: Path) -> None:
    store = write(tmp_path)
    assert [item.shape for item in store] == SHAPES
    with pytest.raises(IndexError):
        store[5]


def test_an_empty_store_is_empty(tmp_path: Path) -> None:
    assert len(write(tmp_path, values=[])) == 0


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    store = write(tmp_path)
    assert isinstance(store._map, type(None))
    store[1]
    assert isinstance(store._map, np.memmap)


class Shapes(Dataset[Tensor]):
    def __init__(self, store: ArrayStore) -> None:
        self.store = store

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, item: int) -> Tensor:
        return self.store[item].flatten()[:1]


def test_it_can_be_sent_to_worker_processes(tmp_path: Path) -> None:
    store = write(tmp_path)
    assert store[0].any()
    message = pickle.dumps(store)
    assert len(message) < 1500  # the place, not the values
    copy = pickle.loads(message)
    for item, value in enumerate(arrays()):
        assert torch.equal(copy[item], value)
    found = list(DataLoader(Shapes(store), batch_size=None, num_workers=1))
    assert torch.equal(torch.cat(found), torch.cat([value.flatten()[:1] for value in arrays()]))


def test_a_store_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"is not a complete array store .*Delete this folder and run"):
        ArrayStore(tmp_path / "none")


@pytest.mark.parametrize("lost", ["index.json", "arrays.bin"])
def test_half_a_store_is_refused(tmp_path: Path, lost: str) -> None:
    write(tmp_path)
    (tmp_path / lost).unlink()
    with pytest.raises(FileError, match="is not a complete array store"):
        ArrayStore(tmp_path)


@pytest.mark.parametrize(
    "index",
    [
        "",
        "{",
        "[]",
        "3",
        "null",
        "\x00\xff",
        "{}",
        json.dumps({"dtype": "<c8"}),
        json.dumps({"dtype": "nonsense", "shapes": []}),
        json.dumps({"dtype": "<c8", "shapes": 3}),
        json.dumps({"dtype": "<c8", "shapes": [3]}),
        json.dumps({"dtype": "<c8", "shapes": [["a"]]}),
        json.dumps({"dtype": "<c8", "shapes": [[None, 2]]}),
    ],
)
def test_a_garbled_index_is_refused(tmp_path: Path, index: str) -> None:
    write(tmp_path)
    (tmp_path / "index.json").write_text(index, encoding="latin-1")
    with pytest.raises(FileError, match="is not a complete array store"):
        ArrayStore(tmp_path)


@pytest.mark.parametrize("change", [-1, -8, 8])
def test_a_store_of_the_wrong_length_is_refused(tmp_path: Path, change: int) -> None:
    write(tmp_path)
    data = (tmp_path / "arrays.bin").read_bytes()
    (tmp_path / "arrays.bin").write_bytes((data + bytes(8))[: len(data) + change])
    with pytest.raises(FileError, match=r"is truncated\. Delete this folder and run the same command again\."):
        ArrayStore(tmp_path)


def test_a_writer_that_fails_leaves_no_index(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), ArrayWriter(tmp_path, "float32") as writer:
        writer.append(torch.zeros(3))
        raise RuntimeError
    with pytest.raises(FileError, match="is not a complete array store"):
        ArrayStore(tmp_path)


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "folder"
    with atomic_folder(folder) as part:
        (part / "a").write_text("text")
        assert not folder.exists()
    assert (folder / "a").read_text() == "text"
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_folder_that_fails_does_not_appear_and_can_be_made_again(tmp_path: Path, error: type[BaseException]) -> None:
    folder = tmp_path / "folder"
    with pytest.raises(error), atomic_folder(folder) as part:
        (part / "half").write_text("text")
        raise error
    assert not folder.exists()
    with atomic_folder(folder) as part:
        assert list(part.iterdir()) == []  # nothing of the first attempt
    assert list(tmp_path.iterdir()) == [folder]


def test_a_finished_folder_is_not_overwritten(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "a") as part:
        (part / "text").write_text("first")
    with pytest.raises(FileError, match="cannot be written"), atomic_folder(tmp_path / "a") as part:
        (part / "text").write_text("second")
    assert (tmp_path / "a" / "text").read_text() == "first"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]
