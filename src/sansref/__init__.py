"""MRI reconstruction sans reference: learn from undersampled k-space alone."""

__version__ = "0.1.0"
