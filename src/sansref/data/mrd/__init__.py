"""Raw data as scanners send it: acquisitions of the ISMRM raw data format (MRD) become scans.

Inati et al., "ISMRM Raw Data Format: A Proposed Standard for MRI Raw Datasets", Magn Reson Med 77(1), 2017. Files and
streams share this room; nothing in it knows of either.
"""
