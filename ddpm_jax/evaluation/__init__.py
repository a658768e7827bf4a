"""Judging samples against data: features, metrics over them, and the one pass that feeds them."""
