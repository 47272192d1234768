"""The meta-step: objective, meta-optimisers and learners."""
