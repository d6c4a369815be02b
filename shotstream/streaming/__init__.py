"""Inference: sessions that generate a film shot by shot, and the rollout that training shares with them."""
