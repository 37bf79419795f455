"""Every exception that a caller may meet.

GameAgentError
├── InvalidInput      a value given by the caller is wrong; nothing was changed
│   ├── TooLarge      it is right in kind but above a limit
│   └── Conflict      it does not follow from the present state (a gap in ``seq``)
├── NotFound          it names a world, an agent or a request that does not exist
├── Unauthorized      it belongs to somebody else
├── Unavailable       the runtime cannot serve this now
│   └── Overloaded    because its queues are full; try again after ``retry_after_ms``
├── ModelError        a checkpoint folder cannot be used
├── TrainingError     a training cannot go on; its last checkpoint is whole
├── ProtocolError     a message breaks the wire protocol; ``code`` says how
├── ServerError       the server answered a request of this client with an error
└── RequestTimeout    the server did not answer in time
"""

from __future__ import annotations


class GameAgentError(Exception):
    """Root of all exceptions meant for callers.

    ``code`` is the wire protocol's error code; ``where`` the path of the offending field, if any.
    """

    code = "internal"

    def __init__(self, message: str, *, where: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where


class InvalidInput(GameAgentError):
    """A value given by the caller is wrong; nothing was changed."""

    code = "invalid"


class TooLarge(InvalidInput):
    """A value is above a limit."""

    code = "too_large"


class Conflict(InvalidInput):
    """A change does not follow from the present state; ``expected`` says what would."""

    code = "conflict"

    def __init__(self, message: str, *, expected: int, where: str | None = None) -> None:
        super().__init__(message, where=where)
        self.expected = expected


class NotFound(GameAgentError):
    """A world, an agent or a request of that name does not exist."""

    code = "not_found"


class Unauthorized(GameAgentError):
    """It belongs to a client with another key."""

    code = "unauthorized"


class Unavailable(GameAgentError):
    """The runtime cannot serve this now (starting, draining)."""

    code = "unavailable"


class Overloaded(Unavailable):
    """Queues are full; try again after ``retry_after_ms`` milliseconds."""

    code = "overloaded"

    def __init__(self, message: str, *, retry_after_ms: int) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class ModelError(GameAgentError):
    """A checkpoint folder cannot be used; the message says which file or key, and what to do."""

    code = "invalid"


class TrainingError(GameAgentError):
    """A training cannot go on; its last checkpoint is whole. The message says what to do."""


class ProtocolError(GameAgentError):
    """A message breaks the protocol: ``bad_message``, ``unsupported_version``, ``unknown_op``."""

    def __init__(
        self, message: str, *, code: str = "bad_message", where: str | None = None
    ) -> None:
        super().__init__(message, where=where)
        self.code = code


class ServerError(GameAgentError):
    """What a server answered a client: its ``code``, its ``message`` and what else it told."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        where: str | None = None,
        retry_after_ms: int | None = None,
        expected: int | None = None,
    ) -> None:
        super().__init__(message, where=where)
        self.code = code
        self.retry_after_ms = retry_after_ms
        self.expected = expected

    def __str__(self) -> str:
        place = f" (at {self.where})" if self.where else ""
        return f"{self.code}: {self.message}{place}"


class RequestTimeout(GameAgentError):
    """The server did not answer in time. The request may still have been carried out."""

    code = "unavailable"
