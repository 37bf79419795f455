"""A world and its versions."""

from __future__ import annotations

import copy
from collections import Counter

import jsonpatch
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from game_agent.agents.partition import partition
from game_agent.agents.world import World
from game_agent.errors import Conflict, InvalidInput

RAIN = [{"op": "replace", "path": "/weather", "value": "rain"}]
SNOW = [{"op": "replace", "path": "/weather", "value": "snow"}]


def village() -> World:
    places = {f"place_{i}": {"open": True, "note": f"note {i} " * 20} for i in range(9)}
    return World("village", {"weather": "sun", "time": "dawn", "places": places})


def test_a_patch_tells_what_changed():
    world = village()
    change = world.patch(RAIN)
    assert (change.seq, change.blocks_changed, change.repeated) == (1, 1, False)
    assert change.blocks == world.num_blocks == len(world.partition.parts)
    assert world.state["weather"] == "rain"
    assert world.patch(merge={"time": None}).blocks_changed == 1
    assert "time" not in world.state
    assert world.patch([]).blocks_changed == 0
    assert world.seq == 3


def test_parts_that_only_moved_have_not_changed():
    people = [{"id": i, "note": "note " * 30} for i in range(5)]
    world = World("village", {"people": people})
    change = world.patch([{"op": "move", "from": "/people/4", "path": "/people/0"}])
    assert change.blocks_changed == 0
    change = world.patch([{"op": "copy", "from": "/people/4", "path": "/people/0"}])
    assert change.blocks_changed == 1


def test_the_last_change_may_be_sent_again():
    world = village()
    first = world.patch(RAIN, seq=1)
    state = world.state
    again = world.patch(copy.deepcopy(RAIN), seq=1)
    assert again.repeated
    assert (again.seq, again.blocks, again.blocks_changed) == (1, first.blocks, 1)
    assert world.state is state
    assert not world.patch(RAIN, seq=2).repeated


@pytest.mark.parametrize(
    ("arguments", "seq"),
    [
        ({"ops": SNOW}, 1),  # the last number, other content
        ({"merge": {"weather": "rain"}}, 1),  # the same effect is not the same change
        ({"ops": RAIN}, 0),
        ({"ops": RAIN}, 3),
    ],
)
def test_a_change_out_of_order_is_refused(arguments, seq):
    world = village()
    world.patch(RAIN, seq=1)
    with pytest.raises(Conflict) as caught:
        world.patch(**arguments, seq=seq)
    assert caught.value.expected == 2
    assert (world.seq, world.state["weather"]) == (1, "rain")


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"ops": RAIN, "merge": {}},
        {"ops": [*RAIN, {"op": "remove", "path": "/nothing"}]},
        {"ops": [{"op": "add", "path": "/weather", "value": float("nan")}]},
        {"ops": {"op": "remove", "path": "/weather"}},
        {"merge": ["rain"]},
        {"merge": {"weather": object()}},
    ],
)
def test_a_change_that_fails_changes_nothing(arguments):
    world = village()
    state, parts = world.state, world.partition.parts
    with pytest.raises(InvalidInput):
        world.patch(**arguments)
    assert (world.seq, world.state, world.partition.parts) == (0, state, parts)
    assert world.patch(RAIN, seq=1).seq == 1


def test_put_replaces_the_state_and_keeps_borders():
    world = village()
    world.add_borders(["/a"])
    change = world.put({"a": 1, "b": 2}, seq=7)
    assert (change.seq, change.blocks, change.blocks_changed) == (7, 2, 2)
    assert world.patch(merge={"b": 3}, seq=8).blocks_changed == 1


@pytest.mark.parametrize(("state", "seq"), [([], 0), ({"a": {1}}, 0), ({}, -1), ({}, True)])
def test_put_refuses_what_is_no_state(state, seq):
    world = village()
    with pytest.raises(InvalidInput):
        world.put(state, seq)
    assert world.state["weather"] == "sun"


def test_what_the_caller_does_later_changes_nothing():
    state = {"bag": ["rope"]}
    world = World("village", state)
    state["bag"].append("key")
    ops = [{"op": "add", "path": "/box", "value": ["coin"]}]
    world.patch(ops)
    ops[0]["value"].append("ring")
    merge = {"hat": ["hole"]}
    world.patch(merge=merge)
    merge["hat"].append("feather")
    assert world.state == {"bag": ["rope"], "box": ["coin"], "hat": ["hole"]}


def test_borders_are_counted():
    world = World("village", {"inn": {"beds": 3}, "forge": {"nails": 9}})
    assert world.num_blocks == 1
    assert world.parts(["/inn"]) == ()
    world.add_borders(["/inn", ""])
    world.add_borders(["/inn"])
    assert [part.text for part in world.parts(["/inn"])] == ["inn: beds: 3."]
    assert [part.path for part in world.parts([""])] == ["/inn", "/forge"]
    world.remove_borders(["/inn"])
    assert world.num_blocks == 2
    world.remove_borders(["/inn", ""])
    assert world.num_blocks == 1


@pytest.mark.parametrize("sees", ["/inn", ["inn"], ["/inn", "/~"], [3]])
def test_sees_must_be_pointers(sees):
    world = World("village", {"inn": {"beds": 3}})
    with pytest.raises(InvalidInput):
        world.add_borders(sees)
    assert world.num_blocks == 1
    world.add_borders(["/inn"])
    world.remove_borders(["/inn"])


KEYS = st.sampled_from(["a", "b", "c"])
VALUES = st.recursive(
    st.integers(0, 9) | st.just("text " * 40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=10,
)
STATES = st.dictionaries(KEYS, VALUES)
SEES = st.lists(st.sampled_from(["", "/a", "/b", "/a/b", "/b/0", "/c/a/0"]), max_size=2)


class WorldMachine(RuleBasedStateMachine):
    """Against a plain dict that is copied and patched by jsonpatch, and a partition made anew."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World("world", {})
        self.state: dict[str, object] = {}
        self.seq = 0
        self.sees: list[list[str]] = []
        self.last: list[object] | None = None

    @rule(state=STATES, seq=st.integers(0, 5))
    def put(self, state, seq):
        self.world.put(state, seq)
        self.state, self.seq, self.last = state, seq, None

    @rule(goal=STATES, counted=st.booleans())
    def patch(self, goal, counted):
        ops = jsonpatch.make_patch(self.state, goal).patch
        old = Counter(part.text for part in self.world.partition.parts)
        change = self.world.patch(ops, seq=self.seq + 1 if counted else None)
        new = Counter(part.text for part in self.world.partition.parts)
        assert (change.blocks, change.blocks_changed) == (new.total(), (new - old).total())
        self.state = jsonpatch.apply_patch(self.state, ops)
        self.seq, self.last = self.seq + 1, ops

    @rule(merge=STATES)
    def merge(self, merge):
        self.world.patch(merge=merge)
        self.state = _merged(self.state, merge)
        self.seq, self.last = self.seq + 1, None

    @precondition(lambda self: self.last is not None)
    @rule()
    def repeat(self):
        assert self.world.patch(self.last, seq=self.seq).repeated

    @rule(gap=st.sampled_from([-1, 2, 3]))
    def gap(self, gap):
        with pytest.raises(Conflict):
            self.world.patch([], seq=self.seq + gap)

    @rule(sees=SEES)
    def see(self, sees):
        self.world.add_borders(sees)
        self.sees.append(sees)

    @precondition(lambda self: self.sees)
    @rule()
    def look_away(self):
        self.world.remove_borders(self.sees.pop(0))

    @invariant()
    def is_as_expected(self):
        assert self.world.state == self.state
        assert self.world.seq == self.seq
        borders = {pointer for sees in self.sees for pointer in sees}
        assert self.world.partition == partition(self.state, borders)


def _merged(state, merge):
    if not isinstance(merge, dict):
        return merge
    result = dict(state) if isinstance(state, dict) else {}
    for key, value in merge.items():
        result[key] = _merged(result.get(key), value)
    return result


WorldMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
TestWorldMachine = WorldMachine.TestCase
