"""Requests per second of one session."""

from __future__ import annotations

from fakes import Desk
from hypothesis import given, settings
from hypothesis import strategies as st

from game_agent.protocol.limits import Limits
from game_agent.server.bucket import TokenBucket


@settings(deadline=None)
@given(
    rate=st.integers(1, 100),
    capacity=st.integers(1, 50),
    gaps=st.lists(st.floats(0, 0.5), max_size=100),
)
def test_never_more_than_the_burst_and_the_rate(
    rate: int, capacity: int, gaps: list[float]
) -> None:
    bucket = TokenBucket(rate, capacity, 0.0)
    now_s, num_taken = 0.0, 0
    for gap in gaps:
        now_s += gap
        wait_ms = bucket.take(now_s)
        num_taken += not wait_ms
        assert num_taken <= capacity + rate * now_s + 1e-3
        if wait_ms:
            now_s += wait_ms / 1e3
            assert bucket.take(now_s) == 0, "it told when there would be one"
            num_taken += 1


def test_a_session_that_asks_too_fast_is_told_when_to_try_again() -> None:
    desk = Desk(Limits(max_requests_per_s=10, max_burst_requests=3))
    replies = [desk.ask_for(id=number, op="ping") for number in range(5)]
    assert [reply["ev"] for reply in replies] == ["ok"] * 3 + ["error"] * 2
    assert (replies[3]["code"], replies[3]["retry_after_ms"]) == ("overloaded", 100)
    assert desk.ask_for("other", id=1, op="ping")["ev"] == "ok", "others are not slowed"
    desk.clock.advance(0.1)
    assert desk.ask_for(id=3, op="ping")["ev"] == "ok", "under the same id"
