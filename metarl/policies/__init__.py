"""From flat parameters to actions, and the derivatives of that."""
