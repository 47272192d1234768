"""Configuration: settings, algorithms, and how a user's choices become settings. Imports no PyTorch."""
