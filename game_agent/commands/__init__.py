"""The commands of ``game-agent``, one function each; ``cli.py`` names them."""
