"""The diffusion transformer: its sizes, positions, attention masks and KV caches."""
