"""Losses as pure functions and modules on tensors; they need torch and nothing of the engine."""
