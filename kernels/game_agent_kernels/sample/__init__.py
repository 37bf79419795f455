"""The choice of the next token from its logits."""
