"""Judging samples against data."""
