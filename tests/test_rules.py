"""Rules for how a world is cut."""

from __future__ import annotations

import json
from typing import Any

import jsonpatch
import pytest
from hypothesis import given
from hypothesis import strategies as st

from game_agent.agents.partition import partition, visible
from game_agent.agents.patch import apply_patch
from game_agent.agents.rules import MAX_RULES, Rule, parse_rules
from game_agent.agents.world import World
from game_agent.errors import InvalidInput, TooLarge

INN: dict[str, Any] = {
    "weather": "rain",
    "people": [
        {"id": "ann", "mood": "calm", "secret": "she lies", "bag": {"key": 1, "rope": 2}},
        {"id": "bo", "mood": "grim", "secret": "he sings", "bag": {}},
    ],
    "log": ["it rained", "it snowed", "it thundered"],
}


def rules(*values: dict[str, Any]) -> tuple[Rule, ...]:
    return parse_rules(list(values))


def texts(state: dict[str, Any], *values: dict[str, Any]) -> list[str]:
    return [part.text for part in partition(state, rules=rules(*values)).parts]


def omit(path: str) -> dict[str, Any]:
    return {"path": path, "do": "omit"}


@pytest.mark.parametrize("path", ["/people/*/secret", "/**/secret", "/people/**/secret"])
def test_omitted_values_are_nowhere(path: str) -> None:
    (whole,) = texts(INN, omit(path))
    assert whole == (
        "world: weather: rain; people / ann / mood: calm; people / ann / bag / key: 1; "
        "people / ann / bag / rope: 2; people / bo / mood: grim; people / bo / bag: none; "
        "log: it rained, it snowed, it thundered."
    )


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/people", "world: weather: rain; log: it rained, it snowed, it thundered."),
        ("/people/*", "world: weather: rain; log: it rained, it snowed, it thundered."),
        ("/*/*/*", "world: weather: rain; log: it rained, it snowed, it thundered."),
        ("/people/1/**", None),
        ("/nothing/at/all", None),
    ],
)
def test_what_is_empty_after_omission_is_gone(path: str, expected: str | None) -> None:
    (whole,) = texts(INN, omit(path))
    if expected is None:
        expected = texts({**INN, "people": INN["people"][: 1 if "1" in path else 2]})[0]
    assert whole == expected


def test_omission_of_elements_and_of_everything() -> None:
    assert texts({"log": [1, 2, 3]}, omit("/log/1")) == ["world: log: 1; log: 3."]
    assert texts({"log": [1, 2]}, omit("/*")) == []
    assert texts({"a": {"b": 1}}, omit("/**/b")) == []


def test_an_omitted_name_names_nothing() -> None:
    state = {"all": [{"id": "x1", "name": "Ann", "hp": 3}]}
    assert texts(state, omit("/all/*/id")) == ["world: all / Ann / hp: 3."]
    assert texts(state, omit("/**/id"), omit("/**/name")) == ["world: all / hp: 3."]


def test_a_split_gives_each_member_a_part() -> None:
    found = texts(INN, {"path": "/people", "do": "split"}, {"path": "/log", "do": "split"})
    assert found == [
        "world: weather: rain.",
        "people / ann: mood: calm; secret: she lies; bag / key: 1; bag / rope: 2.",
        "people / bo: mood: grim; secret: he sings; bag: none.",
        "log: it rained.",
        "log: it snowed.",
        "log: it thundered.",
    ]
    assert texts({"log": []}, {"path": "/log", "do": "split"}) == ["world: log: none."]
    assert texts({"a": 1, "b": 2}, {"path": "", "do": "split"}) == [
        "world: a: 1.",
        "world: b: 2.",
    ]


def test_a_join_is_never_cut() -> None:
    state = {"log": [f"it rained on day {i}" for i in range(200)], "x": {"y": "word " * 300}}
    assert len(texts(state)) > 10
    found = texts(state, {"path": "/*", "do": "join"})
    assert len(found) == 2
    assert found[0].startswith("world: log: it rained on day 0, it rained")
    assert len(texts(state, {"path": "", "do": "join"})) == 1
    inner = texts(state, {"path": "/**", "do": "join"}, {"path": "/log", "do": "split"})
    assert len(inner) == 1
    inner = texts(state, {"path": "/log", "do": "split"}, {"path": "", "do": "join"})
    assert len(inner) == 201


def test_a_template_is_the_text() -> None:
    template = "{} is {mood} and carries {bag}; {{{bag/rope}}} {no} {log/0}  of\n{bag/0}"
    found = texts(INN, {"path": "/people/*", "do": "template", "template": template})
    assert found[1:] == [
        "ann is calm and carries key: 1; rope: 2; {2} none none of none",
        "bo is grim and carries none; {none} none none of none",
    ]
    assert found[0] == "world: weather: rain; log: it rained, it snowed, it thundered."
    assert texts({"log": [4]}, {"path": "/log/0", "do": "template", "template": "{}"}) == []
    whole = {"path": "", "do": "template", "template": "It is {weather}. {log/2}"}
    assert texts(INN, whole) == ["It is rain. it thundered"]


def test_the_first_rule_counts() -> None:
    found = texts(INN, {"path": "/people/0", "do": "join"}, omit("/people/*"))
    assert "ann" in found[0]
    assert "bo" not in found[0]


def test_what_is_not_wholly_seen_is_not_seen() -> None:
    made = rules({"path": "/people/*", "do": "template", "template": "{secret}"})
    parts = partition(INN, ["/people/0/mood"], rules=made).parts
    assert visible(parts, ["/people/0/mood"]) == ()
    assert [part.text for part in visible(parts, ["/people/0"])] == ["she lies"]


def test_a_change_of_one_element_changes_one_part() -> None:
    world = World("inn", INN, rules=rules({"path": "/people", "do": "split"}))
    patch = [{"op": "add", "path": "/people/0", "value": {"id": "zoe", "mood": "rich"}}]
    assert world.patch(patch).blocks_changed == 1
    change = world.patch([{"op": "replace", "path": "/people/1/mood", "value": "wise"}])
    assert change.blocks_changed == 1
    assert world.partition.num_rendered < 12


def test_rules_can_be_replaced_with_the_state() -> None:
    world = World("inn", INN)
    assert world.put(INN, 1, rules(omit("/people"))).blocks == 1
    assert "people" not in world.partition.parts[0].text
    world.put(INN, 2)
    assert "people" not in world.partition.parts[0].text
    change = world.put(INN, 3, ())
    assert (change.blocks, change.blocks_changed) == (1, 1)
    assert "people" in world.partition.parts[0].text


KEYS = ["a", "b", "id"]
values = st.recursive(
    st.integers(0, 9) | st.just("text " * 40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner),
    max_leaves=12,
)
states = st.dictionaries(st.sampled_from(KEYS), values)
paths = st.lists(st.sampled_from([*KEYS, "0", "1", "*", "**"]), max_size=4)
some_rules = st.builds(
    lambda path, do: (
        {"path": "".join(f"/{token}" for token in path), "do": do}
        | ({"template": "{} {a}"} if do == "template" else {})
    ),
    paths.filter(lambda path: set(path) - {"**"}),
    st.sampled_from(["omit", "split", "join", "template"]),
)


@given(states, states, st.lists(some_rules, max_size=3), st.sets(st.sampled_from(["/a", "/b/a"])))
def test_cutting_again_gives_what_cutting_anew_gives(state, goal, values, borders):
    made = parse_rules(values)
    new = apply_patch(state, jsonpatch.make_patch(state, goal).patch)
    old = partition(state, borders, rules=made)
    assert partition(new, borders, old, made) == partition(new, borders, rules=made)
    assert partition(new, borders, old) == partition(new, borders)


@given(states, st.lists(some_rules, max_size=3))
def test_every_part_has_text(state, values):
    assert all(part.text.strip(" .:") for part in partition(state, rules=parse_rules(values)).parts)


@given(st.lists(some_rules, max_size=3))
def test_rules_are_plain_json(values):
    assert [rule.to_value() for rule in parse_rules(json.loads(json.dumps(values)))] == values


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({}, ""),
        ([3], "/0"),
        ([{"path": "/a"}], "/0/do"),
        ([{"path": "/a", "do": "hide"}], "/0/do"),
        ([{"path": "/a", "do": ["omit"]}], "/0/do"),
        ([{"do": "omit"}], "/0/path"),
        ([{"path": "a", "do": "omit"}], "/0/path"),
        ([{"path": "/~", "do": "omit"}], "/0/path"),
        ([{"path": "/**" * 5, "do": "split"}], "/0/path"),
        ([{"path": "", "do": "omit"}], "/0/path"),
        ([{"path": "/**", "do": "omit"}], "/0/path"),
        ([omit("/a"), {"path": "/a", "do": "omit", "template": "x"}], "/1/template"),
        ([{"path": "/a", "do": "template"}], "/0/template"),
        ([{"path": "/a", "do": "template", "template": " "}], "/0/template"),
        ([{"path": "/a", "do": "template", "template": "a {b"}], "/0/template"),
        ([{"path": "/a", "do": "template", "template": "a } b"}], "/0/template"),
        ([{"path": "/a", "do": "template", "template": "{~}"}], "/0/template"),
        ([{"path": "/a", "do": "template", "template": 3}], "/0/template"),
        ([{"path": "/a", "do": "omit", "extra": 1}], "/0/extra"),
    ],
)
def test_wrong_rules_are_refused(value: Any, where: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_rules(value)
    assert (caught.value.where or "") == where


def test_too_many_rules_are_refused() -> None:
    with pytest.raises(TooLarge):
        parse_rules([omit("/a")] * (MAX_RULES + 1))
