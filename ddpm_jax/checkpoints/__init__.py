"""Checkpoints: saved in the background, verified, committed at once, restored on any devices."""
