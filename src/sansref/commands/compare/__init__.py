"""Every method on the same slices, masks and metrics: the plan, its cells, who works them off, and what comes out."""
