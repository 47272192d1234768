"""Helpers for all parts of the package; none depends on reinforcement learning."""
