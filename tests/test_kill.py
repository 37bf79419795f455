"""``kill -9`` under load: what was acknowledged is there after the restart."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import durable
import msgpack
import pytest
import zmq
from serving import PATIENCE_S, free_endpoint

from game_agent.client import Client
from game_agent.errors import RequestTimeout, ServerError

BUSY_S = 0.4
START_S = 90.0


class Player:
    """Keeps changing one world, and remembers what it was told is done."""

    def __init__(self) -> None:
        self.sent = self.acknowledged = 0
        self.observed = self.told_observed = 0
        self.replies: list[str] = []

    def play(self, endpoint: str) -> None:
        """Until the server is gone."""
        with Client(endpoint, timeout_s=1.0) as client:
            try:
                while True:
                    self._turn(client)
            except RequestTimeout:
                return

    def _turn(self, client: Client) -> None:
        self.sent = self.acknowledged + 1
        patch = [{"op": "add", "path": "/log/-", "value": self.sent}]
        client.world_patch("w", patch, seq=self.sent)
        self.acknowledged = self.sent
        self.observed = self.told_observed + 1
        client.observe("ann", f"event {self.observed}")
        self.told_observed = self.observed
        if self.sent % 5 == 0:
            answer = client.ask("ann", f"question {self.sent}", max_tokens=2)
            self.replies.append(answer.text)

    def check(self, client: Client) -> None:
        """Nothing acknowledged is lost; nothing is there twice; go on from what is there."""
        got = client.world_get("w")
        assert self.acknowledged <= got["seq"] <= self.sent
        assert got["state"]["log"] == list(range(1, got["seq"] + 1))
        again = [{"op": "add", "path": "/log/-", "value": got["seq"]}]
        if got["seq"]:
            assert client.world_patch("w", again, seq=got["seq"])["seq"] == got["seq"]
        turns = client.history("ann")
        events = [turn["text"] for turn in turns if turn["kind"] == "event"]
        assert self.told_observed <= len(events) <= self.observed
        assert events == [f"event {number}" for number in range(1, len(events) + 1)]
        replies = [turn["reply"] for turn in turns if turn["kind"] == "said"]
        assert replies[: len(self.replies)] == self.replies
        assert len(replies) <= len(self.replies) + 1
        self.acknowledged, self.told_observed, self.replies = got["seq"], len(events), replies


def kill_again_and_again(checkpoint: Path, folder: Path, bind: str, num_kills: int) -> None:
    chance = random.Random(num_kills)
    player = Player()
    for number in range(num_kills + 1):
        process = durable.start(checkpoint, folder / "state", bind)
        with Client(bind, timeout_s=START_S) as client:
            if number == 0:
                client.world_put("w", {"log": []})
                client.agent_put("ann", world="w", profile="Ann writes.", sees=[])
            player.check(client)
        thread = threading.Thread(target=player.play, args=(bind,))
        thread.start()
        thread.join(chance.uniform(0, BUSY_S))
        process.kill()
        process.join()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert player.acknowledged > num_kills


def test_three_kills(tiny_checkpoint: Path, tmp_path: Path) -> None:
    kill_again_and_again(tiny_checkpoint, tmp_path, free_endpoint(), 3)


@pytest.mark.slow
def test_fifty_kills(tiny_checkpoint: Path, tmp_path: Path) -> None:
    kill_again_and_again(tiny_checkpoint, tmp_path, free_endpoint(), 50)


class Retrier:
    """Observes without ``seq``, and repeats under the same id what was not answered."""

    def __init__(self) -> None:
        self.number = 0
        self.session: str | None = None
        self._context = zmq.Context()

    def close(self) -> None:
        self._context.destroy(linger=0)

    def play(self, endpoint: str, patience_ms: int, is_over: threading.Event) -> None:
        """Until nothing comes back, or ``is_over`` and the last one is answered."""
        with self._context.socket(zmq.DEALER) as socket:
            socket.setsockopt(zmq.LINGER, 0)
            socket.connect(endpoint)
            hello = {"session": self.session} if self.session else {}
            reply = self._ask(socket, patience_ms, op="hello", id="h", **hello)
            assert reply is not None
            assert reply["resumed"] == (self.session is not None)
            self.session = reply["session"]
            self.number = self.number or 1
            while self._observe(socket, patience_ms):
                if is_over.is_set():
                    return
                self.number += 1

    def _observe(self, socket: zmq.Socket[bytes], patience_ms: int) -> bool:
        event = f"event {self.number}"
        fields = {"op": "agent.observe", "id": self.number, "agent": "ann", "event": event}
        reply = self._ask(socket, patience_ms, **fields)
        assert reply is None or reply["ev"] == "ok"
        return reply is not None

    def _ask(
        self, socket: zmq.Socket[bytes], patience_ms: int, **fields: Any
    ) -> dict[str, Any] | None:
        socket.send(msgpack.packb({"v": 1, **fields}))
        if not socket.poll(patience_ms):
            return None
        reply: dict[str, Any] = msgpack.unpackb(socket.recv())
        assert reply["id"] == fields["id"]
        return reply


def retry_after_kills(checkpoint: Path, folder: Path, bind: str, num_kills: int) -> None:
    chance = random.Random(num_kills)
    retrier = Retrier()
    for number in range(num_kills + 1):
        process = durable.start(checkpoint, folder / "state", bind)
        with Client(bind, timeout_s=START_S) as client:
            if number == 0:
                client.world_put("w", {})
                client.agent_put("ann", world="w", profile="Ann writes.", sees=[])
            client.ping()
            is_over = threading.Event()
            if number == num_kills:
                is_over.set()
            thread = threading.Thread(target=retrier.play, args=(bind, 1000, is_over))
            thread.start()
            thread.join(chance.uniform(0.1, BUSY_S))
            if number == num_kills:
                thread.join(PATIENCE_S)
                turns = client.history("ann")
        process.kill()
        process.join()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    retrier.close()
    assert retrier.number > num_kills
    assert [t["text"] for t in turns] == [f"event {n + 1}" for n in range(retrier.number)]


def test_what_is_repeated_after_a_restart_is_done_once(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    retry_after_kills(tiny_checkpoint, tmp_path, free_endpoint(), 2)


@pytest.mark.slow
def test_what_is_repeated_after_twenty_kills_is_done_once(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    retry_after_kills(tiny_checkpoint, tmp_path, free_endpoint(), 20)


def test_a_clean_stop_keeps_everything(tiny_checkpoint: Path, tmp_path: Path) -> None:
    endpoint = free_endpoint()
    definitions: dict[str, Any] = {"world": "w", "profile": "Ann."}
    for number in range(2):
        process = durable.start(tiny_checkpoint, tmp_path, endpoint)
        with Client(endpoint, timeout_s=START_S) as client:
            if number == 0:
                client.world_put("w", {"x": 1}, seq=7)
                client.agent_put("ann", **definitions)
                client.ask("ann", "hello", max_tokens=3)
                history = client.history("ann")
            else:
                assert client.world_get("w") == {"state": {"x": 1}, "seq": 7}
                assert client.history("ann") == history
                with pytest.raises(ServerError, match="not_found"):
                    client.agent_get("bob")
        process.terminate()
        process.join(PATIENCE_S)
