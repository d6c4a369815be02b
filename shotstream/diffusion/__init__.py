"""Flow matching as pure functions of tensors: the path, its schedule, its samplers, guidance."""
