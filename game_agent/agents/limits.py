"""How long a text may be that comes from outside: known before any work is done with it."""

from __future__ import annotations

from game_agent.errors import InvalidInput, TooLarge

MAX_TEXT_CHARS = 2**20
"""Of any text: a value of a world, a field of a card."""
MAX_SPEECH_CHARS = 2**16
"""Of what is said to an agent or observed by it."""
MAX_NAME_CHARS = 128
"""Of a speaker's or a character's name."""
MAX_CHARACTER_CHARS = 2**18
"""Of who an agent is: profile, instructions and examples together."""
MAX_LORE_CHARS = 2**16
"""Of the content of one entry of a lorebook."""
MAX_OPTION_CHARS = 4096
"""Of one option to choose."""
MAX_STOP_CHARS = 1024
"""Of a text that ends a reply."""
MAX_STOPS = 64
MAX_COUNT = 2**53
"""Of a number that counts something: the wire, state files and all languages hold it exactly."""


def check_text(
    text: object, where: str, max_chars: int = MAX_TEXT_CHARS, what: str = "the text"
) -> None:
    """Raises InvalidInput for what is no text or not UTF-8, TooLarge above ``max_chars``."""
    if not isinstance(text, str):
        raise InvalidInput(f"{what} must be a text, not {type(text).__name__}", where=where)
    check_length(len(text), where, max_chars, what)
    try:
        text.encode()
    except UnicodeEncodeError:
        message = f"{what} holds half of a surrogate pair, which UTF-8 cannot hold"
        raise InvalidInput(message, where=where) from None


def check_length(num_chars: int, where: str, max_chars: int, what: str) -> None:
    """Raises TooLarge, which says how long it is and how long it may be."""
    if num_chars > max_chars:
        message = f"{what} has {num_chars:,} characters, {max_chars:,} at most; shorten it"
        raise TooLarge(message, where=where)
