"""Training runs, evaluation and the trained agent."""
