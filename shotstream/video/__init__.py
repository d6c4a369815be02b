"""Video files: H.264 and lossless writers, and a reader that gives frames as a player shows them."""
