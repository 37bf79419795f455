"""What agents see of a world by paths with ``*`` and ``**``, and what a change of that costs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from game_agent.agents.nodes import Part
from game_agent.agents.partition import partition, visible
from game_agent.agents.pointer import join_pointer, parse_pointer
from game_agent.agents.sight import Borders, Sight, border_tails
from game_agent.errors import InvalidInput
from game_agent.runtime import Runtime

PEOPLE = {
    "people": {
        "ann": {"mood": "calm", "secret": {"owes": 3}},
        "bo": {"mood": "angry", "secret": {"owes": 4}},
    },
    "places": [{"name": "inn", "secret": "a cellar"}, {"name": "mill", "secret": "an attic"}],
}

tokens = st.sampled_from(["a", "b", "~", "x/y", "*"])
places = st.lists(tokens, max_size=4)
paths = st.lists(tokens | st.just("**"), max_size=4)


def pointer(parts: list[str]) -> str:
    text = ""
    for token in parts:
        text = join_pointer(text, token)
    return text


def matches(path: list[str], place: list[str]) -> bool:
    """The definition: whether ``path`` names ``place`` itself or something above it."""
    if not path:
        return True
    if path[0] == "**" and matches(path[1:], place):
        return True
    if not place or (path[0] not in ("*", "**") and path[0] != place[0]):
        return False
    return matches(path if path[0] == "**" else path[1:], place[1:])


@given(st.lists(paths, max_size=3), places)
def test_a_place_is_seen_if_a_path_matches_it_or_what_it_lies_in(
    sees: list[list[str]], place: list[str]
) -> None:
    expected = any(matches(path, place) for path in sees)
    assert Sight([pointer(path) for path in sees]).covers(pointer(place)) is expected


@given(st.lists(paths, max_size=3), places)
def test_what_is_seen_begins_at_a_border(sees: list[list[str]], place: list[str]) -> None:
    written = [pointer(path) for path in sees]
    tails = border_tails(written)
    is_seen = Sight(written).covers("")
    for token in place:
        tails = Borders(tails).below(token)
        is_seen = is_seen or () in tails
    assert is_seen is Sight(written).covers(pointer(place))


leaves = st.integers(0, 9) | st.text("xy ", max_size=150)
states = st.dictionaries(
    st.sampled_from("abc"),
    st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner),
        max_leaves=12,
    ),
    max_size=4,
)
any_path = st.lists(st.sampled_from(["a", "b", "0", "*", "**"]), max_size=3).map(pointer)


def leaf_pointers(value: object, at: str = "") -> Iterator[str]:
    if isinstance(value, dict) and value:
        for key, member in value.items():
            yield from leaf_pointers(member, join_pointer(at, key))
    elif isinstance(value, list) and value:
        for index, member in enumerate(value):
            yield from leaf_pointers(member, join_pointer(at, str(index)))
    else:
        yield at


def rendered(parts: tuple[Part, ...], leaf: str) -> bool:
    """Whether one of ``parts`` has the value at ``leaf`` in its text."""
    return any(f"{leaf}/".startswith(f"{path}/") for part in parts for path in part.paths)


@given(states, st.lists(any_path, max_size=3), st.lists(any_path, max_size=2))
def test_nobody_is_shown_more_or_less_than_the_paths_say(
    state: dict[str, object], sees: list[str], others: list[str]
) -> None:
    parts = partition(state, [*sees, *others]).parts  # type: ignore[arg-type]
    shown = visible(parts, sees)
    for leaf in leaf_pointers(state) if state else ():
        expected = any(matches(list(parse_pointer(p)), list(parse_pointer(leaf))) for p in sees)
        assert rendered(shown, leaf) is expected


@given(states, st.lists(any_path, max_size=2), st.lists(any_path, max_size=2))
def test_cutting_again_along_patterns_gives_what_cutting_anew_gives(
    state: dict[str, object], before: list[str], after: list[str]
) -> None:
    previous = partition(state, before)  # type: ignore[arg-type]
    again = partition(state, after, previous)  # type: ignore[arg-type]
    assert again == partition(state, after)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sees", "expected"),
    [
        (["/people/*/mood"], ["people / ann: mood: calm.", "people / bo: mood: angry."]),
        (["/people/ann/**"], ["people / ann: mood: calm; secret / owes: 3."]),
        (
            ["/**/secret"],
            [
                "people / ann / secret: owes: 3.",
                "people / bo / secret: owes: 4.",
                "places / inn: secret: a cellar.",
                "places / mill: secret: an attic.",
            ],
        ),
        (
            ["/people/**/owes"],
            ["people / ann / secret: owes: 3.", "people / bo / secret: owes: 4."],
        ),
        (["/nobody/*"], []),
    ],
)
def test_patterns_by_example(sees: list[str], expected: list[str]) -> None:
    assert [p.text for p in visible(partition(PEOPLE, sees).parts, sees)] == expected


def test_a_pattern_on_names_keeps_them_out_of_what_others_read() -> None:
    parts = partition(PEOPLE, ["/places/*/name", "/places/*/secret"]).parts
    shown = visible(parts, ["/places/*/secret"])
    assert len(shown) == 2
    assert not any("inn" in part.text or "mill" in part.text for part in shown)


def test_a_path_has_few_deep_steps() -> None:
    with pytest.raises(InvalidInput, match="at most 4 times"):
        partition({"a": 1}, ["/**/a/**/b/**/c/**/d/**/e"])


def test_a_change_of_view_encodes_only_blocks_that_its_border_splits(tiny_checkpoint: Path) -> None:
    rooms = {f"room {i}": {"guest": "a monk from the south", "noise": i} for i in range(12)}
    state = {"inn": {"keeper": "Mira", **rooms}, "mill": {"owner": "Aldric", "wheel": "broken"}}
    with Runtime.load(tiny_checkpoint) as runtime:
        world = runtime.world("village", state)
        guard = ["", "/inn", "/inn/*", "/mill"]
        runtime.agent("Guard", world=world, profile="A guard.", sees=guard)
        assert num_encoded(runtime, ("",)) > 12
        # Borders that are there already: whoever begins to see what, nothing is encoded.
        for sees in (("/inn",), ("/inn/*",), ("/mill", "/inn/room 5"), ("",)):
            assert num_encoded(runtime, sees) == 0
        runtime.remove_agent("Guard")
        assert 0 < num_encoded(runtime, ("",)) < 12  # the rooms are joined again
        # A new border through one join makes two or three blocks of that one.
        before = {part.text for part in world.partition.parts}
        runtime.agent("Aldric", world=world, profile="A miller.", sees=["/**/room 5"])
        after = {part.text for part in world.partition.parts}
        assert len(before - after) == 1
        # The room alone was encoded for the guard.
        assert num_encoded(runtime, ("",)) == len(after - before) - 1 <= 2


def num_encoded(runtime: Runtime, sees: tuple[str, ...]) -> int:
    """Blocks that Mira's next answer encodes when she sees that."""
    mira = runtime.agent("Mira", world="village", profile="An innkeeper.", sees=sees)
    reply = mira.say("player", "Hello", max_tokens=1, remember=False)
    reply.text()
    assert reply.answer is not None
    return reply.answer.usage.blocks_encoded
