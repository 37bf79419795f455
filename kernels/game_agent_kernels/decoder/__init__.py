"""A whole forward pass as one call."""
