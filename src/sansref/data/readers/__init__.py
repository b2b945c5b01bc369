"""Readers: one file per format, chosen by content; each gives a description and slices one at a time."""

from sansref.data.readers.folder import find_files, scan_folder
from sansref.data.readers.formats import open_scan_file
from sansref.data.readers.record import FileInfo, ImageSlice, Kind, Plane, Reader, ReaderOptions

__all__ = [
    "FileInfo",
    "ImageSlice",
    "Kind",
    "Plane",
    "Reader",
    "ReaderOptions",
    "find_files",
    "open_scan_file",
    "scan_folder",
]
