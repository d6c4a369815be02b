"""Video codecs: Wan2.1's VAE, its light preview decoder, and the patch codec of the theatre."""
