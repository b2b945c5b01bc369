"""Running the methods: the loop, one fit, the stages of refinement, the run directory."""
