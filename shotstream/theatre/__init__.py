"""The theatre: a procedural world of pixel art for training and exact evaluation of small models."""
