"""Policies: maps from flat parameters to actions, with their derivatives."""
