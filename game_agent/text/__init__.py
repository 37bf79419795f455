"""Tokens and text: tokenizer, prompt formats, and the reply as it streams."""
