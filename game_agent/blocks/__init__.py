"""Blocks of tokens and the pages that hold their keys and values."""
