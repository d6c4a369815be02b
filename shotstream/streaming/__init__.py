"""Inference: sessions that make a film shot by shot, and the rollout that training shares with them."""
