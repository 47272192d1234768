"""Measurements: a command in this package reproduces every number that the project states."""
