"""Losses as pure functions and modules on tensors, independent of the training engine."""
