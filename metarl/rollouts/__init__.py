"""Episodes become rollouts."""
