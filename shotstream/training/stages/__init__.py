"""The training stages, one module each; see `stage.py` for their protocol."""
