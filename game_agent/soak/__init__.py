"""A long, mixed load on a server, and what it measured."""
