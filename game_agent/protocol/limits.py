"""What a peer may ask of a server."""

from __future__ import annotations

from dataclasses import dataclass, fields

from game_agent.errors import InvalidInput


@dataclass(frozen=True)
class Limits:
    """Told to every client by ``hello`` and enforced before work is done. All at least 1.

    Raises ``InvalidInput`` naming the field that is not.
    """

    max_frame_bytes: int = 8 * 2**20
    max_depth: int = 64
    max_string_chars: int = 2**20
    max_items: int = 1_000_000
    """Map entries and array elements in one message, all levels together."""
    max_worlds: int = 256
    max_agents: int = 4096
    max_sessions: int = 1024
    max_requests_in_flight: int = 256
    """Unanswered requests of one session."""
    max_requests_per_s: int = 2000
    """Of one session, in the long run; asks of a tick count."""
    max_burst_requests: int = 5000
    """Of one session, at once."""
    max_queued_bytes: int = 16 * 2**20
    """Replies that wait for one slow reader."""
    max_queued_replies: int = 8192
    """A reader that is this slow, and still asks, is dropped."""
    max_replay_bytes: int = 16 * 2**20
    """Terminal replies of one session kept for repeated requests; the oldest go first."""
    max_save_bytes: int = 256 * 2**20
    """A save that is loaded, all parts together."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InvalidInput(
                    f"{field.name} must be a whole number of at least 1, got {value!r}",
                    where=field.name,
                )
