"""Collection of rollouts, and their advantages."""
