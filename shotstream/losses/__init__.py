"""Training losses as pure functions: predictions come in as tensors, in float32 or better inside."""
