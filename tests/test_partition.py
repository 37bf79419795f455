"""A world state cut into parts: what they say, and what stays when something changes."""

from __future__ import annotations

import copy
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from game_agent.agents.cuts import cut_run
from game_agent.agents.nodes import MAX_CHARS, Part
from game_agent.agents.partition import partition, visible
from game_agent.agents.patch import apply_patch
from game_agent.agents.pointer import join_pointer
from game_agent.agents.rendering import flatten, render
from game_agent.errors import InvalidInput

keys = st.sampled_from(["inn", "forge", "id", "name", "rooms_free", "a/b", "0"])
scalars = st.none() | st.booleans() | st.integers(-9, 99) | st.sampled_from(["ale", "x " * 150])
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=5),
    max_leaves=25,
)
states = st.dictionaries(keys, values, max_size=6)


def texts(state, borders=()) -> list[str]:
    return [part.text for part in partition(state, borders).parts]


def all_pointers(value, pointer="") -> list[str]:
    found = [pointer]
    if isinstance(value, dict | list):
        for token, member in value.items() if isinstance(value, dict) else enumerate(value):
            found += all_pointers(member, join_pointer(pointer, token))
    return found


def changed(old, state) -> int:
    """Parts of ``state`` that are not in the partition ``old``, by text."""
    new = Counter(part.text for part in partition(state, (), old).parts)
    return (new - Counter(part.text for part in old.parts)).total()


def big_world(num_npcs=60, seed=0):
    rng = random.Random(seed)
    words = ["red", "old", "tall", "calm", "rich", "lost", "wise", "grim"]
    return {
        "weather": "rain",
        "time": "dawn",
        "npcs": {
            f"npc_{i}": {
                "mood": rng.choice(words),
                "gold": rng.randrange(10, 99),
                "home": {"town": rng.choice(words), "floor": rng.randrange(9)},
                "likes": rng.sample(words, 3),
                "past": " ".join(rng.choices(words, k=i * 3)),
            }
            for i in range(num_npcs)
        },
        "items": [{"kind": rng.choice(words), "weight": rng.randrange(10**6)} for _ in range(80)],
        "people": [{"id": f"p{i}", "mood": rng.choice(words)} for i in range(80)],
        "log": [" ".join(rng.choices(words, k=9)) + f" {i}" for i in range(80)],
    }


@pytest.mark.parametrize(
    ("state", "items"),
    [
        ({"weather": "rain", "time": "dawn"}, "weather: rain; time: dawn."),
        ({"rooms_free": 3, "open": True, "by": None}, "rooms free: 3; open: yes; by: none."),
        ({"menu": ["ale", 2, False]}, "menu: ale, 2, no."),
        ({"guests": [], "stock": {}, "sign": " "}, "guests: none; stock: none; sign: none."),
        ({"inn": {"stock": {"ale": 0.5}}}, "inn / stock / ale: 0.5."),
        ({"sign": "Keep\n\nout!\tnow "}, "sign: Keep out! now."),
        ({"sign": "Keep out!"}, "sign: Keep out!"),
        ({"all": [{"id": "a b", "hp": 1}, {"name": "Bo"}]}, "all / a b / hp: 1; all / Bo: none."),
        ({"all": [{"id": 7, "name": "Bo"}, {"id": 8}]}, "all / Bo / id: 7; all / 8: none."),
        ({"all": [{"id": True}, {"id": ""}]}, "all / id: yes; all / id: none."),
        ({"bag": [{"kind": "key"}, [1, 2], "rope"]}, "bag / kind: key; bag: 1, 2; bag: rope."),
    ],
)
def test_how_values_read(state, items):
    assert texts(state) == [f"world: {items}"]


def test_an_empty_state_has_no_parts():
    assert partition({}).parts == ()


def test_a_place_is_a_block_and_the_rest_of_the_root_is_joined():
    inn = {"rooms_free": 3, "keeper": "Mira", "menu": ["ale", "stew"], "note": "n" * 90}
    state = {"weather": "rain", "inn": inn, "map": "m" * MAX_CHARS, "time": "dawn"}
    parts = partition(state).parts
    assert parts[0] == Part("", "world: weather: rain; time: dawn.", ("/weather", "/time"))
    note = f"note: {'n' * 90}."
    expected = f"inn: rooms free: 3; keeper: Mira; menu: ale, stew; {note}"
    assert parts[1] == Part("/inn", expected, ("/inn",))
    assert {part.path for part in parts[2:]} == {"/map"}


def test_long_texts_are_cut_between_sentences():
    sentences = [f"Line {i} of the song is about a {'very ' * (i % 7)}old ship." for i in range(60)]
    parts = partition({"songs": {"ship": " ".join(sentences)}}).parts
    assert len(parts) > 3
    assert all(part.text.startswith("songs: ship: Line ") for part in parts)
    bodies = [part.text.removeprefix("songs: ship: ") for part in parts]
    assert " ".join(bodies) == " ".join(sentences)


@pytest.mark.parametrize("text", ["word " * 500, "x" * 3000, "长。" * 900, ". " * 900])
def test_any_long_text_is_cut(text):
    parts = partition({"text": text}).parts
    assert all(len(part.text) <= MAX_CHARS for part in parts)
    said = "".join(part.text.removeprefix("world: text: ") for part in parts)
    assert said.replace(" ", "").replace(".", "") == text.replace(" ", "").replace(".", "")


@pytest.mark.parametrize("num_words", range(92, 102))
def test_a_leaf_of_the_root_has_room_for_the_root_s_header(num_words):
    parts = partition({"inn": ["x " * num_words] * 3}).parts
    assert all(len(part.text) <= MAX_CHARS for part in parts)


@settings(deadline=None)
@given(states)
def test_no_part_is_too_long_and_nothing_is_lost(state):
    parts = partition(state).parts
    assert all(len(part.text) <= MAX_CHARS for part in parts)
    whole = render((), flatten(state))
    if state and len(whole) <= MAX_CHARS:
        assert [part.text for part in parts] == [whole]


def tagged(value, counter):
    """``value`` with every scalar replaced by a text of its own; ids and names stay."""
    if isinstance(value, dict):
        return {k: v if k in ("id", "name") else tagged(v, counter) for k, v in value.items()}
    if isinstance(value, list):
        return [tagged(v, counter) for v in value]
    counter[0] += 1
    return f"<{counter[0]}>" + "y" * (250 if isinstance(value, str) else 0)


def tags(value) -> set[str]:
    if isinstance(value, dict):
        return {tag for k, v in value.items() if k not in ("id", "name") for tag in tags(v)}
    if isinstance(value, list):
        return {tag for v in value for tag in tags(v)}
    return {value[: value.index(">") + 1]}


def resolve(state, pointer):
    for token in pointer.split("/")[1:]:
        key = token.replace("~1", "/").replace("~0", "~")
        state = state[int(key)] if isinstance(state, list) else state[key]
    return state


@settings(deadline=None)
@given(states, st.data())
def test_who_sees_a_pointer_sees_all_below_it_and_nothing_else(state, data):
    state = tagged(state, [0])
    inner = [p for p in all_pointers(state) if not {"id", "name"} & set(p.split("/"))]
    sees = data.draw(st.lists(st.sampled_from(inner), max_size=3))
    absent = [f"{pointer}/99" for pointer in sees]
    parts = partition(state, [*sees, *absent]).parts
    shown = " ".join(part.text for part in visible(parts, sees))
    expected = set().union(*(tags(resolve(state, pointer)) for pointer in sees))
    assert {tag for tag in tags(state) if tag in shown} == expected
    assert visible(parts, absent) == ()
    assert visible(parts, [""]) == parts


@given(states)
def test_borders_that_name_nothing_have_no_effect(state):
    absent = [f"{pointer}/99" for pointer in all_pointers(state)]
    assert texts(state, absent) == texts(state)


def test_a_border_on_a_name_keeps_it_out_of_headers():
    state = {"people": [{"name": "Secret", "hp": 3}, {"name": "Bo", "hp": 4}]}
    parts = partition(state, ["/people/0/name"]).parts
    assert [part.path for part in parts if "Secret" in part.text] == ["/people/0/name"]


def test_a_border_must_be_a_pointer():
    with pytest.raises(InvalidInput):
        partition({"a": 1}, ["a"])


def test_pointers_that_only_look_alike_are_not_seen():
    parts = (Part("/inn", "", ("/inn",)), Part("/inns", "", ("/inns",)), Part("", "", ("/a", "/b")))
    assert visible(parts, ["/inn", "/inn", "/a"]) == parts[:1]
    assert visible(parts, ["/b", "/a"]) == parts[2:]
    assert visible(parts, []) == ()


@settings(deadline=None)
@given(states, st.data())
def test_cutting_again_gives_what_cutting_anew_gives(state, data):
    previous = None
    for _ in range(3):
        pointers = st.sampled_from(all_pointers(state))
        borders = data.draw(st.lists(pointers, max_size=2))
        previous = partition(state, borders, previous)
        assert previous == partition(state, borders)
        target = data.draw(pointers)
        op = data.draw(st.sampled_from(["add", "remove", "replace", "copy"]))
        if target and op == "copy":
            source = data.draw(pointers)
            state = apply_patch(state, [{"op": "copy", "from": source, "path": target}])
        elif target:
            value = data.draw(values)
            state = apply_patch(state, [{"op": op, "path": target, "value": value}])


def test_a_patch_renders_only_what_it_touches():
    old = big_world()
    cut = partition(old)
    assert cut.num_rendered > 600
    state = apply_patch(old, [{"op": "replace", "path": "/npcs/npc_7/mood", "value": "calm"}])
    again = partition(state, (), cut)
    # The root and its 2 short members, the object of all people, the person with 5 members.
    assert again.num_rendered <= 1 + 2 + 1 + 1 + 5 + 60
    assert again.num_rendered < cut.num_rendered / 5
    assert partition(state, (), again).num_rendered == 0


def test_what_moves_in_an_array_is_not_rendered_again():
    old = {"people": [{"id": i, "bag": {"gold": i, "note": "n" * 200}} for i in range(50)]}
    cut = partition(old)
    op = {"op": "add", "path": "/people/0", "value": {"id": 99, "bag": {"gold": 1}}}
    state = apply_patch(old, [op])
    again = partition(state, (), cut)
    assert again == partition(state)
    assert again.num_rendered <= 6
    # A moved element whose own member then changes: its children still know their old place.
    state = apply_patch(state, [{"op": "replace", "path": "/people/9/bag/gold", "value": 5}])
    assert partition(state, (), again) == partition(state)


def test_a_new_border_cuts_only_there_again():
    state = big_world()
    cut = partition(state)
    with_border = partition(state, ["/npcs/npc_30/home"], cut)
    assert with_border == partition(state, ["/npcs/npc_30/home"])
    new = Counter(p.text for p in with_border.parts) - Counter(p.text for p in cut.parts)
    assert 1 <= new.total() <= 3
    assert with_border.num_rendered < cut.num_rendered / 5


def test_a_changed_value_changes_one_part():
    state = big_world()
    cut = partition(state)
    num_changed = Counter(
        changed(cut, apply_patch(state, [{"op": "replace", "path": pointer, "value": value}]))
        for pointer, value in [
            *((f"/npcs/npc_{i}/gold", 7 + i) for i in range(0, 60, 3)),
            *((f"/npcs/npc_{i}/home/town", "blue") for i in range(0, 60, 3)),
            *((f"/people/{i}/mood", "blue") for i in range(0, 80, 3)),
            *((f"/items/{i}/kind", "blue") for i in range(0, 80, 3)),
            ("/weather", "snow"),
        ]
    )
    assert max(num_changed) <= 3
    assert num_changed[1] > 0.9 * num_changed.total()


def test_a_member_that_comes_or_goes_changes_a_part_or_two():
    state = big_world()
    cut = partition(state)
    num_changed = Counter()
    for i in range(0, 80, 4):
        for array, value in [
            ("people", {"id": f"new{i}", "mood": "blue"}),
            ("items", {"kind": "blue", "weight": i}),
            ("log", f"something new happened, number {i}"),
        ]:
            add = {"op": "add", "path": f"/{array}/{i}", "value": value}
            num_changed[changed(cut, apply_patch(state, [add]))] += 1
            remove = {"op": "remove", "path": f"/{array}/{i}"}
            num_changed[changed(cut, apply_patch(state, [remove]))] += 1
    assert max(num_changed) <= 4
    assert num_changed[0] + num_changed[1] + num_changed[2] > 0.95 * num_changed.total()


def test_an_edited_sentence_leaves_the_rest_of_a_long_text():
    sentences = [f"Verse {i} tells of the {i}th day at sea." for i in range(100)]
    old = partition({"song": " ".join(sentences)})
    for i in range(0, 100, 5):
        edited = [*sentences[:i], "Nobody remembers this verse at all.", *sentences[i + 1 :]]
        inserted = [*sentences[:i], "A new verse begins here.", *sentences[i:]]
        assert changed(old, {"song": " ".join(edited)}) <= 3
        assert changed(old, {"song": " ".join(inserted)}) <= 3


def test_parts_are_of_useful_size():
    sizes = [len(part.text) for part in partition(big_world()).parts]
    assert sum(90 <= size <= MAX_CHARS for size in sizes) > 0.9 * len(sizes)


def test_the_state_is_left_alone():
    state = big_world(5)
    before = copy.deepcopy(state)
    partition(state, ["/npcs/npc_1"])
    assert state == before


@given(st.lists(st.integers(1, 700), max_size=80), st.randoms(use_true_random=False))
def test_runs_are_cut_into_groups_that_fit(sizes, rng):
    ranks = [rng.randrange(5) for _ in sizes]
    groups = cut_run(sizes, ranks, 300)
    assert [i for start, stop in groups for i in range(start, stop)] == list(range(len(sizes)))
    assert all(stop - start == 1 or sum(sizes[start:stop]) <= 300 for start, stop in groups)
