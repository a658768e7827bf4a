"""Comparison of samples with data: features, metrics of features, and one pass for all metrics."""
