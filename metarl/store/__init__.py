"""The files in a run's folder."""
