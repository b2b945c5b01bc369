"""Where scans come from: readers, raw acquisitions, simulation, splits by subject, coil maps, prepared scans."""
