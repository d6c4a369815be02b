"""The diffusion transformer, its positions, masks and caches."""
