"""Worlds, characters and memories: text in, blocks and questions out."""
