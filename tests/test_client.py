"""The clients against a real server with a fake runtime."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from fakes import FakeRuntime
from serving import free_endpoint, running

from game_agent.agents.budget import MemoryBudget
from game_agent.client import AsyncClient, AsyncStream, Client
from game_agent.client.core import Core
from game_agent.errors import InvalidInput, RequestTimeout, ServerError, TooLarge
from game_agent.protocol.codec import encode
from game_agent.protocol.limits import Limits
from game_agent.server import Server


@pytest.fixture
def runtime() -> FakeRuntime:
    return FakeRuntime(is_instant=True)


@pytest.fixture
def server(runtime: FakeRuntime) -> Iterator[Server]:
    with running(runtime) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.endpoint) as client:
        yield client


def test_operations(client: Client, runtime: FakeRuntime) -> None:
    assert client.hello("test")["protocol"] == 1
    client.ping()
    assert client.world_put("v", {"x": 1}, seq=3) == {"seq": 3, "blocks": 1}
    change = client.world_patch("v", [{"op": "add", "path": "/y", "value": 2}], seq=4)
    assert change == {"seq": 4, "blocks": 2, "blocks_changed": 1}
    assert client.world_patch("v", merge={"y": 5})["seq"] == 5
    assert client.world_get("v") == {"state": {"x": 1, "y": 5}, "seq": 5}
    client.agent_put("cat", world="v", profile={"name": "Cat"}, sees=["/x"], instructions="Purr.")
    assert client.agent_get("cat") == {"agent": "cat"}
    client.observe("cat", "rain", game_time=1.5)
    client.observe(["cat", "ann"], "thunder")
    client.warm("cat")
    assert [turn["text"] for turn in client.history("cat")] == ["rain", "thunder"]
    assert [turn["text"] for turn in client.history("cat", last=1)] == ["thunder"]
    assert client.ask("cat", "hello", speaker="Eve", max_tokens=9).text == "cat heard hello."
    assert runtime.agents["cat"].speakers == ["Eve"]
    assert runtime.asks[-1].options.max_tokens == 9
    assert client.lore_put([{"keys": ["x"], "content": "y"}], world="v", scan_depth=2) == {
        "entries": 1,
        "blocks": 1,
    }
    client.observe("cat", "lightning", game_time=9, pin=True)
    saved = client.save("v")
    assert client.rewind("cat", 2) == 1
    assert client.load(saved) == {"world": "v", "agents": ["cat"]}
    assert client.history("cat", last=1)[0]["pinned"]
    assert client.inspect("cat", "hi")[-1]["source"] == "event"
    stream = client.stream("cat", "x")
    stream.result()
    stream.heard(3)
    assert runtime.asks[-1].heard_chars == 3
    card = {"spec": "chara_card_v2", "data": {"name": "Cat"}}
    client.agent_put("cat", world="v", card=card, memory_tokens=5, recall=2, summarize=True)
    assert runtime.agents["cat"].budget == MemoryBudget(5, recall=2, summarize=True)
    assert not client.cancel(1)
    assert client.stats()["num_asks"] == 2
    client.agent_delete("cat")
    client.world_delete("v")
    with pytest.raises(ServerError) as caught:
        client.world_get("v")
    assert (caught.value.code, caught.value.where) == ("not_found", "world")


def test_errors_tell_all_that_the_server_told(client: Client) -> None:
    with pytest.raises(ServerError, match=r"conflict: .* \(at seq\)") as caught:
        client.world_patch("w", merge={}, seq=5)
    assert caught.value.expected == 1


def test_a_stream(client: Client) -> None:
    stream = client.stream("ann", "one. Two", by="sentence")
    assert "".join(stream) == "ann heard one. Two."
    assert stream.answer is not None
    assert stream.answer.text == "ann heard one. Two."
    assert list(stream) == []
    assert client.stream("ann", "x").result().finish_reason == "stop"
    with pytest.raises(ServerError):
        client.stream("nobody", "x").result()


def test_a_stream_can_be_cancelled_halfway() -> None:
    runtime = FakeRuntime()
    with running(runtime) as server, Client(server.endpoint) as client:
        stream = client.stream("ann", "x")
        client.ping()
        runtime.step()
        pieces = iter(stream)
        assert next(pieces) == "ann "
        assert stream.cancel()
        assert list(pieces) == []
        assert stream.answer is not None
        assert stream.answer.finish_reason == "cancelled"


def test_a_tick(client: Client) -> None:
    asks = [{"agent": "ann", "event": "x", "stream": True}, {"agent": "nobody", "event": "y"}]
    tick = client.tick("w", 7, merge={"b": 1}, seq=1, asks=asks)
    assert (tick.seq, tick.reply["tick"]) == (1, 7)
    assert tick.asks[0].result().text == "ann heard x."
    with pytest.raises(ServerError) as caught:
        tick.asks[1].result()
    assert caught.value.where == "asks.1.agent"
    with pytest.raises(ServerError) as caught:
        client.tick("w", 8, merge={}, seq=9, asks=asks)
    assert caught.value.code == "conflict"
    client.ping()


def test_no_server_is_a_clear_timeout() -> None:
    with (
        Client("tcp://127.0.0.1:9", timeout_s=0.05) as client,
        pytest.raises(RequestTimeout, match="is the server running there"),
    ):
        client.ping()


def test_no_answer_is_a_clear_timeout() -> None:
    with running(FakeRuntime()) as server, Client(server.endpoint) as client:
        client.hello()
        client.timeout_s = 0.05
        with pytest.raises(RequestTimeout):
            client.ask("ann", "x")
        client.timeout_s = 20.0
        client.ping()


def test_a_stream_may_be_waited_for_again_and_fails_again() -> None:
    runtime = FakeRuntime()
    with running(runtime) as server, Client(server.endpoint) as client:
        stream = client.stream("ann", "x")
        client.ping()
        client.timeout_s = 0.05
        with pytest.raises(RequestTimeout):
            stream.result()
        client.timeout_s = 20.0
        runtime.finish()
        assert stream.result().text == stream.result().text == "ann heard x."
        wrong = client.stream("nobody", "x")
        for _ in range(2):
            with pytest.raises(ServerError, match="nobody"):
                wrong.result()


def test_what_nobody_can_ask_for_any_more_is_not_collected() -> None:
    runtime = FakeRuntime()
    with running(runtime) as server, Client(server.endpoint) as client:
        stream = client.stream("ann", "x")
        ask: dict[str, Any] = {"agent": "ann", "event": "y", "stream": True}
        tick = client.tick("w", 1, asks=[ask])
        assert len(client._core.unanswered()) == 2
        del stream, tick
        runtime.finish()
        client.ping()
        assert client._core.unanswered() == []
        assert client._core._arrived == {}


def test_what_could_not_be_sent_is_not_sent_later() -> None:
    runtime, endpoint = FakeRuntime(), free_endpoint()
    ask: dict[str, Any] = {"agent": "ann", "event": "y"}
    with Client(endpoint, timeout_s=0.05) as client:
        for send in (
            lambda: client.world_patch("w", merge={"b": 1}),
            lambda: client.stream("ann", "x"),
            lambda: client.tick("w", 1, merge={"b": 1}, asks=[ask]),
        ):
            with pytest.raises(RequestTimeout):
                send()
        assert client._core.unanswered() == []
        client.timeout_s = 20.0
        with running(runtime, bind=endpoint):
            client.ping()
            assert (runtime.worlds["w"].seq, runtime.asks) == (0, [])


def test_reconnecting_brings_the_answers_back() -> None:
    runtime = FakeRuntime()
    with running(runtime) as server, Client(server.endpoint) as client:
        client.hello()
        stream = client.stream("ann", "x")
        tick = client.tick("w", 1, asks=[{"agent": "ann", "event": "y"}])
        assert client.reconnect()
        runtime.finish()
        assert stream.result().text == "ann heard x."
        assert tick.asks[0].result().text == "ann heard y."
        assert len(runtime.asks) == 2


def test_reconnecting_to_a_server_that_forgot_sends_nothing(runtime: FakeRuntime) -> None:
    with running(runtime) as server:
        client = Client(server.endpoint)
        client.hello()
    with running(runtime) as server, client:
        client.endpoint = server.endpoint
        assert not client.reconnect()
        client.ping()


def test_what_the_server_would_not_take_is_not_sent(runtime: FakeRuntime) -> None:
    limits = Limits(max_frame_bytes=1000)
    with running(runtime, limits=limits) as server, Client(server.endpoint) as client:
        client.hello()
        with pytest.raises(TooLarge):
            client.world_put("v", {"x": "y" * 2000})
        with pytest.raises(InvalidInput):
            client.world_put("v", {"x": object()})
        client.ping()


def test_async_operations(server: Server, runtime: FakeRuntime) -> None:
    async def play() -> None:
        async with AsyncClient(server.endpoint) as client:
            assert (await client.hello("test"))["protocol"] == 1
            await client.ping()
            assert await client.world_put("v", {"x": 1}) == {"seq": 0, "blocks": 1}
            assert (await client.world_patch("v", merge={"y": 5}))["seq"] == 1
            assert (await client.world_get("v"))["state"] == {"x": 1, "y": 5}
            await client.agent_put("cat", world="v", profile="A cat.")
            assert await client.agent_get("cat") == {"agent": "cat"}
            await client.observe("cat", "rain")
            await client.warm("cat")
            assert [turn["text"] for turn in await client.history("cat")] == ["rain"]
            answers = await asyncio.gather(*(client.ask("cat", str(n)) for n in range(5)))
            assert [each.text for each in answers] == [f"cat heard {n}." for n in range(5)]
            stream = await client.stream("cat", "x")
            assert "".join([piece async for piece in stream]) == "cat heard x."
            tick = await client.tick("v", 1, merge={}, asks=[{"agent": "cat", "event": "y"}])
            assert tick.seq == 2
            assert (await tick.asks[0].result()).text == "cat heard y."
            assert not await client.cancel(1)
            assert (await client.stats())["num_asks"] == 7
            await client.agent_delete("cat")
            await client.world_delete("v")
            with pytest.raises(ServerError):
                await client.world_get("v")

    asyncio.run(play())


def test_async_waiting_can_be_given_up_and_reconnected() -> None:
    runtime = FakeRuntime()

    async def play(endpoint: str) -> None:
        async with AsyncClient(endpoint) as client:
            await client.hello()
            stream = await client.stream("ann", "x")
            await client.ping()
            given_up = asyncio.create_task(client.ask("ann", "y"))
            waiting = asyncio.create_task(stream.result())
            await client.ping()
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up
            assert await client.reconnect()
            runtime.finish()
            assert (await waiting).text == "ann heard x."
            late = await client.stream("ann", "z")
            await client.ping()
            assert await late.cancel()
            assert (await late.result()).finish_reason == "cancelled"
            client.timeout_s = 0.05
            with pytest.raises(RequestTimeout):
                await client.ask("ann", "w")

    with running(runtime) as server:
        asyncio.run(play(server.endpoint))


def test_async_an_answer_may_be_given_up_cancelled_and_read() -> None:
    runtime = FakeRuntime()

    async def play(endpoint: str) -> None:
        async with AsyncClient(endpoint) as client:
            stream = await client.stream("ann", "x")
            await client.ping()
            runtime.step()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(stream.result(), 0.05)
            assert await stream.cancel()
            assert (await stream.result()).text == "ann "

    with running(runtime) as server:
        asyncio.run(play(server.endpoint))


def test_async_others_wait_while_a_connection_is_replaced() -> None:
    runtime = FakeRuntime()

    async def play(endpoint: str) -> None:
        async with AsyncClient(endpoint) as client:
            await client.hello()

            async def ask_on() -> list[AsyncStream]:
                streams = []
                for number in range(20):
                    streams.append(await client.stream("ann", str(number)))
                    await client.ping()
                return streams

            others = [asyncio.create_task(ask_on()) for _ in range(4)]
            for _ in range(3):
                await asyncio.sleep(0.01)
                assert await client.reconnect()
            all_streams = await asyncio.gather(*others)
            runtime.finish()
            for streams in all_streams:
                for number, stream in enumerate(streams):
                    assert (await stream.result()).text == f"ann heard {number}."
            assert len(runtime.asks) == 80

    with running(runtime) as server:
        asyncio.run(play(server.endpoint))


def test_async_without_a_server_is_a_clear_timeout() -> None:
    async def play() -> None:
        async with AsyncClient("tcp://127.0.0.1:9", timeout_s=0.05) as client:
            with pytest.raises(RequestTimeout):
                await client.ping()

    asyncio.run(play())


def test_both_clients_offer_the_same() -> None:
    def parameters(client: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(method).parameters)
            for name, method in vars(client).items()
            if not name.startswith("_")
        }

    assert parameters(Client) == parameters(AsyncClient)


def test_replies_that_nobody_waits_for_are_ignored() -> None:
    core = Core()
    sent = core.request("ping", {})
    assert core.feed(encode({"v": 1, "id": 99, "ev": "ok"})) is None
    assert core.feed(encode({"v": 1, "id": sent.id, "ev": "ok", "new": 1})) == sent.id
    assert core.unanswered() == []
    assert core.take(sent.id) == {"v": 1, "id": sent.id, "ev": "ok", "new": 1}
    assert core.feed(encode({"v": 1, "id": sent.id, "ev": "ok"})) is None
    with pytest.raises(ServerError):
        core.feed(encode({"v": 1, "id": None, "ev": "error", "code": "bad_message"}))


def test_the_client_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'numpy'): sys.modules[name] = None\n"
        "from game_agent import AsyncClient, Client\n"
        "import game_agent.client\n"
        "assert game_agent.client.Client is Client\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
