"""Compressed sensing: reconstruction without learning."""
