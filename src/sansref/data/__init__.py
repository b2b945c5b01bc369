"""Where scans come from: readers, raw acquisitions, simulation, splits by subject, coil maps, prepared scans.

A :class:`Preparation` turns a file into the scans that methods learn from and reconstruct: it simulates k-space where a
file has images alone, undersamples where k-space is full, finds coil maps, and scales.

>>> from pathlib import Path
>>> import numpy
>>> from sansref.data import Preparation, Sampling
>>> numpy.save("image.npy", numpy.random.default_rng(0).random((32, 32)))
>>> (scan,) = Preparation(sampling=Sampling(acceleration=2)).scans(Path("image.npy"))
>>> scan.acceleration, scan.meta.synthetic
(2.0, True)
"""

from sansref.data.coil_maps import CoilOptions
from sansref.data.prepare import Preparation
from sansref.data.readers import FileInfo, ImageSlice, ReaderOptions, scan_folder
from sansref.data.scan_file import ScanFile, open_file
from sansref.data.simulate import Sampling, Simulation, simulate
from sansref.data.slices import Slices

__all__ = [
    "CoilOptions",
    "FileInfo",
    "ImageSlice",
    "Preparation",
    "ReaderOptions",
    "Sampling",
    "ScanFile",
    "Simulation",
    "Slices",
    "open_file",
    "scan_folder",
    "simulate",
]
