"""Where scans come from and where images go: readers, simulation, splits, stores, export."""
