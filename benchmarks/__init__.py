"""Measurements: every figure that this project states comes out of a command in here."""
