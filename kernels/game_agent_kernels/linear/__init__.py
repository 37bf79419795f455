"""Linear layers with weights packed once."""
