"""What is wanted: settings, algorithms, and how a choice becomes settings. Imports no PyTorch."""
