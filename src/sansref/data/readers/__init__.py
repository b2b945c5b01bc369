"""Readers: one file per format, chosen by content; each gives a description and slices one at a time.

====================  ==================================================================================================
all of them           ``reader`` the contract, ``formats`` the choice, ``folder`` the files of a folder, ``subjects``
                      whose they are, ``damage`` becomes one line, also where a library hangs or crashes
k-space by lines      ``ismrmrd``, ``twix``, and ``acquisitions`` from their lines to images, by :mod:`sansref.data.mrd`
k-space by slices     ``fastmri``
unnamed arrays        ``numpy_arrays``, ``matlab``, ``hdf5_arrays``, ``bart``, and what they share: ``arrays``, and
                      ``array_slices`` a checked slice at a time
magnitudes            ``nifti``, ``dicom`` (``dicom_headers``)
====================  ==================================================================================================
"""

from sansref.data.readers.folder import ScanFiles, find_files, is_label_map, scan_files, scan_folder
from sansref.data.readers.formats import open_scan_file
from sansref.data.readers.reader import FileInfo, ImageSlice, Kind, Plane, Reader, ReaderOptions

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
