"""Training: recipes, stages, the loop, checkpoints and parallelism."""
