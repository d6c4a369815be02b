"""Weights: the bundle format, published checkpoints, LoRAs, and the hub that finds and downloads them."""
