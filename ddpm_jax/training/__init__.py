"""Training: the compiled step and its state, and what happens around it."""
