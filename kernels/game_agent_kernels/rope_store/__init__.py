"""q/k norm, RoPE, and the write of keys and values into their pages."""
