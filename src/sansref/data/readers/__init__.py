"""Readers: one file per format, chosen by content; each gives a description and slices one at a time.

========================  ==============================================================================================
all of them               ``record`` what a reader gives, ``formats`` the choice, ``folder`` the files of a folder,
                          ``guard`` damage becomes one line, ``isolated`` (``child``) a reader in a process of its own,
                          ``names`` people and contrasts by file names,
                          ``subjects`` whose the files of a folder are, ``acquired`` the mask where only data tell it
k-space by lines          ``ismrmrd``, ``twix`` (``twix_header``, ``twix_blocks``), and ``raw`` from their lines to
                          images, by :mod:`sansref.data.mrd`
k-space by slices         ``fastmri``
arrays without a meaning  ``numpy_arrays``, ``matlab``, ``hdf5_arrays``, ``bart``, and ``arrays`` what they share:
                          ``axes`` the words for them, ``stored`` a part at a time, ``planes`` a checked slice,
                          ``partitions`` 3-D k-space
magnitudes                ``nifti``, ``dicom`` (``dicom_files``, ``dicom_headers``, ``dicom_series``, ``dicom_pixels``)
========================  ==============================================================================================
"""

from sansref.data.readers.folder import ScanFiles, find_files, is_label_map, scan_files, scan_folder
from sansref.data.readers.formats import open_scan_file
from sansref.data.readers.record import FileInfo, ImageSlice, Kind, Plane, Reader, ReaderOptions

__all__ = [
    "FileInfo",
    "ImageSlice",
    "Kind",
    "Plane",
    "Reader",
    "ReaderOptions",
    "ScanFiles",
    "find_files",
    "is_label_map",
    "open_scan_file",
    "scan_files",
    "scan_folder",
]
