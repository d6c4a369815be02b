"""Training data: sources of batches, shards of encoded clips, and generated stories of the theatre."""
