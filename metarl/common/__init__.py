"""What every part may use and that knows nothing of reinforcement learning."""
