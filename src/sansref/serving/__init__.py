"""A server for the MRD streaming protocol: raw acquisitions in, reconstructed images out."""
