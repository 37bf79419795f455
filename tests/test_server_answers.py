"""Choices and actions over the wire: from a client to a model and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeRuntime
from serving import running

from game_agent.agents.snapshot import read_snapshot
from game_agent.client import Client
from game_agent.errors import ServerError
from game_agent.runtime import Runtime

ACTIONS: list[dict[str, Any]] = [
    {"name": "sell", "parameters": {"item": {"values": "/people/{agent}/has"}}},
    {"name": "wait"},
]


@pytest.fixture
def client(tiny_checkpoint: Path) -> Iterator[Client]:
    with (
        Runtime.load(tiny_checkpoint) as runtime,
        running(runtime) as server,  # type: ignore[arg-type]
        Client(server.endpoint) as client,
    ):
        client.world_put("village", {"people": {"Mira": {"has": ["bread", "ale"]}}})
        client.agent_put("Mira", world="village", profile="Mira runs the inn.", actions=ACTIONS)
        yield client


def test_choose(client: Client) -> None:
    options = ["Yes.", "No.", "Yes. No."]
    answer = client.ask("Mira", "A room?", kind="choose", options=options)
    assert answer.choice is not None
    assert answer.finish_reason == "stop"
    scores = answer.choice["scores"]
    assert answer.choice["option"] == options[scores.index(max(scores))] == answer.text
    mean = client.ask("Mira", "A room?", kind="choose", options=options, normalize=True)
    assert mean.choice is not None
    assert min(mean.choice["scores"]) > min(scores)
    assert [turn["reply"] for turn in client.history("Mira")] == [answer.text, mean.text]


def test_act(client: Client) -> None:
    seen = set()
    for seed in range(12):
        chance: dict[str, Any] = {"temperature": 5.0, "seed": seed, "top_k": 40, "remember": False}
        answer = client.ask("Mira", "Bread!", kind="act", max_tokens=100, **chance)
        seen.add((answer.action["name"], answer.action["arguments"].get("item")))
        assert answer.usage["forced_tokens"] > 10
    assert seen <= {("sell", "bread"), ("sell", "ale"), ("wait", None)}
    assert len(seen) > 1
    client.world_patch("village", merge={"people": {"Mira": {"has": []}}})
    assert client.ask("Mira", "Bread!", kind="act", max_tokens=100).action["name"] == "wait"


def test_json_under_a_schema_and_what_is_cut_off(client: Client) -> None:
    schema = {"type": "object", "properties": {"mood": {"enum": ["calm", "angry"]}}}
    schema.update(required=["mood"], additionalProperties=False)
    answer = client.ask("Mira", "How are you?", kind="act", schema=schema)
    assert answer.action["mood"] in ("calm", "angry")
    cut = client.ask("Mira", "How are you?", kind="act", schema=schema, max_tokens=3)
    assert (cut.action, cut.text, cut.finish_reason) == (None, "", "length")
    for wrong in ({"type": "nonsense"}, [], "text"):
        with pytest.raises(ServerError, match="schema") as caught:
            client.ask("Mira", "How are you?", kind="act", schema=wrong)  # type: ignore[arg-type]
        assert (caught.value.code, caught.value.where) == ("invalid", "schema")


def test_kinds_are_told_and_may_share_a_tick(client: Client) -> None:
    assert {"say", "act", "choose"} <= set(client.hello()["capabilities"])
    tick = client.tick(
        "village",
        1,
        merge={"weather": "rain"},
        asks=[
            {"agent": "Mira", "event": "A room?", "kind": "choose", "options": ["Yes.", "No."]},
            {"agent": "Mira", "event": "Now?", "kind": "choose", "options": []},
            {"agent": "Mira", "event": "Bread!", "kind": "act"},
            {"agent": "Mira", "event": "Hello", "max_tokens": 3},
        ],
    )
    assert tick.asks[0].result().choice is not None
    with pytest.raises(ServerError) as caught:
        tick.asks[1].result()
    assert caught.value.where == "asks.1.options"
    assert tick.asks[2].result().action is not None
    assert tick.asks[3].result().action is None


def test_a_parameters_schema_that_cannot_be_kept(client: Client) -> None:
    wrong = [{"name": "a", "parameters": {"b": {"type": "nonsense"}}}]
    with pytest.raises(ServerError) as caught:
        client.agent_put("Torven", world="village", profile="A guard.", actions=wrong)
    assert (caught.value.code, caught.value.where) == ("invalid", "actions.0.parameters")


def test_actions_are_saved(client: Client) -> None:
    saved = client.save("village")
    (agent,) = read_snapshot(saved).agents
    assert [action.name for action in agent.persona.actions] == ["sell", "wait"]
    client.agent_put("Mira", world="village", profile="Mira runs the inn.")
    with pytest.raises(ServerError, match="no actions"):
        client.ask("Mira", "Bread!", kind="act")
    client.load(saved)
    assert client.ask("Mira", "Bread!", kind="act").action is not None


def test_actions_survive_a_restart(tmp_path: Path) -> None:
    with running(FakeRuntime(), state_dir=tmp_path) as server, Client(server.endpoint) as client:
        client.agent_put("cat", world="w", profile="", actions=ACTIONS)
    runtime = FakeRuntime()
    with running(runtime, state_dir=tmp_path):
        assert [action.name for action in runtime.agents["cat"].persona.actions] == ["sell", "wait"]
