"""How good a reconstruction is, with and without a reference."""
