"""Checkpoints, the packed decoder, and the plan of a forward pass."""
