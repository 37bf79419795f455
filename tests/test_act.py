"""Actions: an agent can only name what the world has and what it sees of that."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schemas import random_schema

from game_agent.agents.actions import Action, actions_schema, parse_actions, read_action
from game_agent.agents.agent import Agent
from game_agent.agents.question import Act
from game_agent.agents.values import View
from game_agent.engine import Completion, Usage
from game_agent.errors import GameAgentError, InvalidInput, TooLarge
from game_agent.runtime import Runtime

STATE: dict[str, Any] = {
    "places": {"inn": {"beds": 3}, "mill": {}, "crypt": {"secret": "a crown"}},
    "people": {
        "Mira": {"has": ["bread", "ale", "key"], "gold": 7},
        "Torven": {"has": ["spear"], "mood": "bored"},
    },
    "monsters": [{"id": "rat 1", "hp": 3}, {"id": "rat 2", "hp": 1}, {"hp": 9}],
    "doors": [True, 2, 2.5, "", None, "oak"],
}
ACTIONS: list[Any] = [
    {
        "name": "sell",
        "description": "Sell something that you have.",
        "parameters": {
            "item": {"values": "/people/{agent}/has"},
            "price": {"type": "integer", "minimum": 1, "maximum": 99},
        },
    },
    {"name": "walk", "parameters": {"to": {"values": "/places"}}},
    {"name": "hit", "parameters": {"whom": {"values": ["/monsters", "/people"]}}},
    {"name": "wait"},
]


@pytest.fixture
def runtime(tiny_checkpoint: Path) -> Iterator[Runtime]:
    with Runtime.load(tiny_checkpoint) as runtime:
        runtime.world("village", STATE)
        yield runtime


@pytest.fixture
def mira(runtime: Runtime) -> Agent:
    return runtime.agent("Mira", world="village", profile="Mira runs the inn.", actions=ACTIONS)


def view(sees: tuple[str, ...] = ("",), rules: Any = ()) -> View:
    return View("Mira", STATE, sees, rules)


def test_values_of_a_world() -> None:
    everything = view()
    assert everything.values("/places") == ["inn", "mill", "crypt"]
    assert everything.values("/people/{agent}/has") == ["bread", "ale", "key"]
    assert everything.values("/monsters") == ["rat 1", "rat 2"]
    assert everything.values("/people/Mira/gold") == [7]
    assert everything.values("/doors") == [True, 2, 2.5, "oak"]
    assert everything.values("/doors/5", "/people/Mira/has") == ["oak", "bread", "ale", "key"]
    assert everything.values("/nowhere", "/people/Mira/has/7", "/people/Mira/gold/x") == []


@pytest.mark.parametrize(
    ("sees", "pointer", "values"),
    [
        (("/places/inn",), "/places", ["inn"]),
        (("/people/*/mood",), "/people", ["Torven"]),
        (("/people/*/mood",), "/people/Mira/has", []),
        (("/people/Mira",), "/people/Mira/has", ["bread", "ale", "key"]),
        (("/people/Mira/has/1",), "/people/Mira/has", ["ale"]),
        (("/monsters/1",), "/monsters", ["rat 2"]),
        (("/monsters/*/hp",), "/monsters", []),
        ((), "/places", []),
    ],
)
def test_what_is_not_seen_cannot_be_named(
    sees: tuple[str, ...], pointer: str, values: list[Any]
) -> None:
    assert view(sees).values(pointer) == values


def test_what_the_rules_leave_out_cannot_be_named(runtime: Runtime) -> None:
    rules = runtime.world(
        "village", STATE, partition=[{"path": "/places/crypt", "do": "omit"}]
    ).rules
    assert view(rules=rules).values("/places") == ["inn", "mill"]
    assert view(rules=rules).values("/places/crypt") == []


def test_an_action_is_remembered_as_done(mira: Agent) -> None:
    reply = mira.act("Player", "Sell me bread!", max_tokens=200, temperature=1.0, seed=1)
    action = reply.action()
    assert json.loads(reply.wait().text) == action
    assert reply.wait().finish_reason == "stop"
    jsonschema.validate(action, actions_schema(parse_actions(ACTIONS), view()))
    said = mira.history()[-1]["reply"]
    assert isinstance(said, str)
    assert said.startswith(f"*{action['name']}")
    assert all(str(value) in said for value in action["arguments"].values())


def test_the_prompt_tells_what_can_be_done_last(mira: Agent) -> None:
    sources = mira._prompt(4, 20, None, "Possible actions: wait.").sources
    assert (sources[0], sources[-1]) == ("character", "actions")
    assert "actions" not in mira._prompt(4, 20, None).sources


def test_an_action_that_is_cut_off_is_none(mira: Agent) -> None:
    reply = mira.act("Player", "Sell me bread!", max_tokens=5)
    assert reply.action() is None
    assert (reply.wait().finish_reason, reply.wait().text) == ("length", "")
    assert list(reply) == []
    late = mira.act("Player", "Sell me bread!", deadline_ms=1e-3)
    assert (late.action(), late.wait().finish_reason) == (None, "deadline")
    assert mira.history() == []


def test_stop_texts_are_for_speech(mira: Agent) -> None:
    assert mira.act("Player", "Do!", [{"name": "wait"}], stop=("wait",)).action() == {
        "name": "wait",
        "arguments": {},
    }


def test_json_under_a_schema(mira: Agent) -> None:
    schema = {"type": "object", "properties": {"mood": {"enum": ["calm", "angry"]}}}
    schema |= {"required": ["mood"], "additionalProperties": False}  # type: ignore[dict-item]
    value = mira.act("Player", "How are you?", schema=schema).action()
    assert value["mood"] in ("calm", "angry")
    assert json.loads(str(mira.history()[-1]["reply"])) == value


def test_an_action_without_values_is_not_offered(runtime: Runtime, mira: Agent) -> None:
    runtime.get_world("village").patch(merge={"people": {"Mira": {"has": []}}})
    names = {
        mira.act("Player", "Now?", temperature=5.0, seed=seed, remember=False).action()["name"]
        for seed in range(12)
    }
    assert "sell" not in names
    assert len(names) > 1
    only = [a for a in ACTIONS if a["name"] == "sell"]
    with pytest.raises(InvalidInput, match="no action is possible"):
        mira.act("Player", "Sell!", only)


def test_a_queued_action_sees_the_world_of_its_turn(runtime: Runtime, mira: Agent) -> None:
    talk = mira.say("Player", "Tell me everything.", max_tokens=200)
    sell = [a for a in ACTIONS if a["name"] == "sell"]
    gone = mira.act("Player", "Sell!", sell)
    still = mira.act("Player", "Wait!", [{"name": "wait"}])
    runtime.get_world("village").patch(merge={"people": {"Mira": {"has": []}}})
    talk.cancel()
    with pytest.raises(InvalidInput, match="no action is possible"):
        gone.wait()
    assert still.action()["name"] == "wait"


def test_actions_survive_a_save(runtime: Runtime, mira: Agent) -> None:
    saved = runtime.save("village")
    before = mira.act("Player", "Now?", remember=False).action()
    runtime.agent("Mira", world="village", profile="Mira runs the inn.")
    with pytest.raises(InvalidInput, match="no actions"):
        mira.act("Player", "Now?")
    runtime.restore(saved)
    assert [action.to_value() for action in mira.persona.actions] == [
        action.to_value() for action in parse_actions(ACTIONS)
    ]
    assert mira.act("Player", "Now?", remember=False).action() == before


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({}, ""),
        ([1], "/0"),
        ([{"name": " "}], "/0/name"),
        ([{"name": "a", "what": 1}], "/0/what"),
        ([{"name": "a", "description": 3}], "/0/description"),
        ([{"name": "a", "parameters": []}], "/0/parameters"),
        ([{"name": "a"}, {"name": "a"}], "/1/name"),
        ([{"name": "a", "parameters": {"b": 1}}], "/0/parameters/b"),
        ([{"name": "a", "parameters": {"b": {"values": ""}}}], "/0/parameters/b/values"),
        ([{"name": "a", "parameters": {"b": {"values": "inn"}}}], "/0/parameters/b/values"),
        ([{"name": "a", "parameters": {"b": {"values": []}}}], "/0/parameters/b/values"),
        ([{"name": "a", "parameters": {"b": {"values": 3}}}], "/0/parameters/b/values"),
        (
            [{"name": "a", "parameters": {"b": {"values": "/x", "type": "string"}}}],
            "/0/parameters/b/type",
        ),
    ],
)
def test_actions_that_are_none_are_refused(wrong: Any, where: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_actions(wrong)
    assert (caught.value.where or "") == where
    with pytest.raises(TooLarge):
        parse_actions([{"name": str(i)} for i in range(200)])


def test_a_parameters_schema_is_checked_when_it_is_given(runtime: Runtime, mira: Agent) -> None:
    wrong = [{"name": "a", "parameters": {"b": {"type": "nonsense"}}}]
    with pytest.raises(InvalidInput) as caught:
        runtime.agent("Torven", world="village", profile="A guard.", actions=wrong)
    assert caught.value.where == "actions/0/parameters"
    assert "Torven" not in runtime.agents
    with pytest.raises(InvalidInput, match="nonsense"):
        mira.act("Player", "Now?", wrong)
    with pytest.raises(InvalidInput, match="schema"):
        mira.act("Player", "Now?", schema={"type": "nonsense"})


NAMES = st.sampled_from(["bread", "ale", "key", "iron ore", 'a "sword"', "größe", "日本"])
WORLDS = st.fixed_dictionaries(
    {
        "people": st.dictionaries(
            st.sampled_from(["Mira", "Torven", "Selwyn"]),
            st.fixed_dictionaries({"has": st.lists(NAMES, max_size=4)}),
        ),
        "places": st.dictionaries(NAMES, st.just({}), max_size=5),
        "monsters": st.lists(st.fixed_dictionaries({"id": NAMES}), max_size=3),
    }
)
SEES = st.sampled_from([("",), ("/people/Mira",), ("/places", "/people/*"), ("/monsters/0",)])


def check_action(agent: Agent, sees: tuple[str, ...], seed: int) -> None:
    """What is done is valid and names what the world has now, looked up the plain way."""
    state: Any = agent.world.state
    reply = agent.act("Player", "Now?", temperature=4.0, seed=seed, max_tokens=100)
    action = reply.action()
    if action is None:
        assert reply.wait().finish_reason == "length"
        return
    arguments = action["arguments"]
    sees_all = "" in sees
    if action["name"] == "sell":
        assert arguments["item"] in state["people"]["Mira"]["has"]
        assert sees_all or {"/people/Mira", "/people/*"} & set(sees)
    elif action["name"] == "walk":
        assert arguments["to"] in state["places"]
        assert sees_all or "/places" in sees
    elif action["name"] == "hit":
        known: list[Any] = []
        if sees_all or "/people/*" in sees:
            known += state["people"]
        elif "/people/Mira" in sees and "Mira" in state["people"]:
            known.append("Mira")
        if sees_all:
            known += [monster["id"] for monster in state["monsters"]]
        elif "/monsters/0" in sees:
            known += [monster["id"] for monster in state["monsters"][:1]]
        assert arguments["whom"] in known
    else:
        assert action == {"name": "wait", "arguments": {}}


@pytest.fixture(scope="module")
def shared_runtime(tiny_checkpoint: Path) -> Iterator[Runtime]:
    with Runtime.load(tiny_checkpoint) as runtime:
        yield runtime


def play(runtime: Runtime, worlds: list[Any], sees: tuple[str, ...], seed: int) -> None:
    """Act while the world changes between questions."""
    world = runtime.world("changing", worlds[0])
    agent = runtime.agent("Mira", world=world, profile="Mira.", sees=sees, actions=ACTIONS)
    agent.rewind(-1)
    for turn, state in enumerate(worlds):
        world.put(state, turn)
        check_action(agent, sees, seed + turn)


@given(st.lists(WORLDS, min_size=1, max_size=3), SEES, st.integers(0, 2**20))
@settings(max_examples=15)
def test_every_action_names_only_what_is_there(
    shared_runtime: Runtime, worlds: list[Any], sees: tuple[str, ...], seed: int
) -> None:
    play(shared_runtime, worlds, sees, seed)


@pytest.mark.slow
@given(st.lists(WORLDS, min_size=1, max_size=6), SEES, st.integers(0, 2**20))
@settings(max_examples=400)
def test_every_action_names_only_what_is_there_at_length(
    shared_runtime: Runtime, worlds: list[Any], sees: tuple[str, ...], seed: int
) -> None:
    play(shared_runtime, worlds, sees, seed)


def run_random_schemas(agent: Agent, count: int) -> None:
    rng = random.Random(count)
    num_complete = 0
    for seed in range(count):
        schema = random_schema(rng, depth=2)
        reply = agent.act("Player", "Now?", schema=schema, seed=seed, temperature=1.0,
                          max_tokens=rng.choice([20, 200]), remember=False)  # fmt: skip
        answer = reply.wait()
        if answer.finish_reason == "stop":
            jsonschema.validate(answer.action, schema)
            num_complete += 1
        else:
            assert (answer.finish_reason, answer.action, answer.text) == ("length", None, "")
    assert 0.2 * count < num_complete < count


def test_random_schemas(mira: Agent) -> None:
    run_random_schemas(mira, 20)


@pytest.mark.slow
def test_a_thousand_random_schemas(mira: Agent) -> None:
    run_random_schemas(mira, 1000)


@pytest.mark.parametrize("text", ["1e999", "9" * 30, "9" * 5000, '{"a": [-1e999]}'])
def test_a_number_that_no_program_reads_is_an_error(mira: Agent, text: str) -> None:
    task = Act(schema={"type": "number"}).task(100, mira._setting())
    with pytest.raises(GameAgentError, match="bound it in the schema"):
        task.read(Completion(text, "stop", Usage()))


def test_an_answer_that_cannot_be_read_fails_alone(
    mira: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(json, "loads", lambda _: 10**30)
        bad = mira.act("Player", "Now?")
        with pytest.raises(GameAgentError, match="bound it in the schema"):
            bad.wait()
    assert mira.act("Player", "Now?").action() is not None
    assert len(mira.history()) == 1


def test_an_action_reads_well() -> None:
    sell, walk, _, wait = parse_actions(ACTIONS)
    assert sell.text == "sell (item, price): Sell something that you have."
    assert walk.text == "walk (to)."
    assert wait.text == "wait."
    assert parse_actions([sell, Action("b")]) == (sell, Action("b"))


@given(st.text(), st.sampled_from(["", " "]), st.booleans())
def test_what_stands_before_a_value_is_taken_away(text: str, before: str, fixed: bool) -> None:
    """A model may write texts with a space before them; games get them as they gave them."""
    kind: dict[str, Any] = {"enum": [text, 7]} if fixed else {"type": "string"}
    action = Action("say", parameters={"what": kind, "loud": {"type": "boolean"}})
    schema: Any = actions_schema([action], None, before)
    written = {"name": f"{before}say", "arguments": {"what": before + text, "loud": True}}
    jsonschema.validate(written, schema)
    read = read_action([action], written, before)
    assert read == {"name": "say", "arguments": {"what": text, "loud": True}}
    if fixed:
        call = {"name": f"{before}say", "arguments": {"what": 7, "loud": False}}
        jsonschema.validate(call, schema)
        assert read_action([action], call, before)["arguments"] == {"what": 7, "loud": False}


@pytest.mark.parametrize("rule", [{"pattern": "^ x$"}, {"minLength": 2}, {"format": "date"}])
def test_a_text_of_a_certain_form_is_left_as_it_is(rule: dict[str, Any]) -> None:
    action = Action("say", parameters={"what": {"type": "string", **rule}})
    call = {"name": " say", "arguments": {"what": " x"}}
    assert read_action([action], call, " ") == {"name": "say", "arguments": {"what": " x"}}


@pytest.mark.parametrize(
    "kind",
    [
        {"enum": ["oak", "elm"], "maxLength": 3},
        {"const": "oak", "type": "string", "maxLength": 3},
        {"enum": ["oak"], "minLength": 3},
        {"enum": ["oak"], "pattern": "^o"},
        {"anyOf": [{"const": "oak"}, {"const": " oak"}]},
    ],
)
def test_rules_beside_given_texts_are_kept(kind: dict[str, Any]) -> None:
    action = Action("take", parameters={"what": kind})
    schema: Any = actions_schema([action], None, " ")
    written = [{"name": " take", "arguments": {"what": text}} for text in ("oak", " oak")]
    possible = [call for call in written if jsonschema.Draft202012Validator(schema).is_valid(call)]
    assert possible
    for call in possible:
        read = read_action([action], call, " ")
        jsonschema.validate(read, actions_schema([action], None))


def test_values_of_the_world_have_it_too() -> None:
    action = Action("walk", parameters={"to": {"values": "/places"}, "how": {"const": "slowly"}})
    schema: Any = actions_schema([action], view(), " ")
    jsonschema.validate({"name": " walk", "arguments": {"to": " mill", "how": " slowly"}}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(
            {"name": " walk", "arguments": {"to": "mill", "how": " slowly"}}, schema
        )
