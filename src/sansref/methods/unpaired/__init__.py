"""Methods that learn from undersampled scans and full scans of other people."""
