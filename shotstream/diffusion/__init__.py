"""Flow matching as pure functions of tensors: the path, its schedule, samplers, guidance and losses."""
