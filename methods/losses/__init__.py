"""Losses as pure functions on tensors, and the class means that some of them are weighted by."""
