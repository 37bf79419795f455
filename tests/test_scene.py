"""Characters who talk in turn and overhear each other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from game_agent.agents.agent import Agent
from game_agent.agents.scene import Scene
from game_agent.errors import InvalidInput, NotFound
from game_agent.runtime import Runtime


@pytest.fixture
def runtime(tiny_checkpoint: Path) -> Iterator[Runtime]:
    with Runtime.load(tiny_checkpoint) as runtime:
        runtime.engine.runner.stop_token_ids = frozenset()
        runtime.world("village", {"inn": {"beds": 3}, "mill": {"wheel": "broken"}})
        for name, sees in (("Mira", "/inn"), ("Aldric", "/mill"), ("Zoe", "")):
            runtime.agent(name, world="village", profile="A villager.", sees=[sees])
        yield runtime


@pytest.fixture
def scene(runtime: Runtime) -> Scene:
    return runtime.scene("Mira", runtime.get_agent("Aldric"), "Zoe")


def memory(agent: Agent) -> list[tuple[object, ...]]:
    return [(turn["speaker"], turn["text"], turn["reply"]) for turn in agent.history()]


def speak(scene: Scene, agent: Agent | None = None, **options: object) -> str:
    text = scene.turn(agent, max_tokens=6, **options).text()
    assert text.strip()
    return text


def heard(speaker: str, text: str) -> tuple[object, ...]:
    return ("", f"{speaker}: {text}", None)


def test_what_one_says_the_others_overhear(runtime: Runtime, scene: Scene) -> None:
    mira, aldric, zoe = scene.agents
    scene.say("Player", "Who lives here?")
    first = speak(scene)
    second = speak(scene)
    scene.settle()
    assert memory(mira) == [("Player", "Who lives here?", first), heard("Aldric", second)]
    assert memory(aldric) == [heard("Player", "Who lives here?"), ("Mira", first, second)]
    assert memory(zoe) == [
        heard("Player", "Who lives here?"),
        heard("Mira", first),
        heard("Aldric", second),
    ]
    scene.settle()
    assert len(memory(zoe)) == 3
    # Each has its own view of the world.
    assert "mill" not in str([block["text"] for block in mira.inspect()][1:2])


def test_whom_a_line_names_is_next_else_who_was_silent_longest(scene: Scene) -> None:
    mira, aldric, zoe = scene.agents
    scene.say("Player", "Good evening.")
    assert scene.next_speaker() is mira
    scene.say("Player", "What do you owe ZOE, aldric?")
    assert scene.next_speaker() is zoe
    scene.say("Player", "The Zoes are many. Aldric?")
    assert scene.next_speaker() is aldric
    speak(scene)
    assert scene.agents == (mira, zoe, aldric)
    assert scene.next_speaker() is mira
    speak(scene, zoe)
    assert scene.next_speaker() is mira
    with pytest.raises(InvalidInput, match="nothing new"):
        scene.turn(zoe)


def test_what_happens_is_noticed_and_may_be_answered(scene: Scene) -> None:
    mira, aldric, _ = scene.agents
    scene.tell("The roof falls in.", game_time=3)
    reply = speak(scene, game_time=4)
    scene.settle()
    assert memory(mira) == [("Event", "The roof falls in.", reply)]
    assert memory(aldric) == [("", "The roof falls in.", None), heard("Mira", reply)]
    assert [turn["game_time"] for turn in aldric.history()] == [3, 4]


def test_a_given_line_of_a_character_is_remembered_by_her_too(scene: Scene) -> None:
    mira, aldric, _ = scene.agents
    scene.say("Mira", "The beds are full.")
    assert memory(mira) == [heard("Mira", "The beds are full.")]
    assert scene.next_speaker() is aldric
    reply = speak(scene)
    assert memory(aldric) == [("Mira", "The beds are full.", reply)]


def test_an_interrupted_reply_is_overheard_as_far_as_it_was_spoken(scene: Scene) -> None:
    mira, aldric, _ = scene.agents
    scene.say("Player", "Tell me all.")
    reply = scene.turn(max_tokens=30)
    whole = reply.text()
    reply.heard(5)
    scene.say("Player", "Stop!")
    scene.settle()
    assert memory(mira)[0] == ("Player", "Tell me all.", whole[:5].rstrip())
    assert memory(aldric)[1] == heard("Mira", whole[:5].rstrip())


def test_one_speaks_at_a_time(scene: Scene) -> None:
    with pytest.raises(InvalidInput, match="nothing was said"):
        scene.turn()
    scene.say("Player", "Tell me all.")
    reply = scene.turn(max_tokens=5000)
    for step in (scene.turn, scene.settle, scene.next_speaker, lambda: scene.say("x", "y")):
        with pytest.raises(InvalidInput, match="Mira is still speaking"):
            step()
    reply.cancel()
    reply.text()
    speak(scene)


def test_who_said_nothing_has_heard_the_line_all_the_same(scene: Scene) -> None:
    mira, aldric, _ = scene.agents
    scene.say("Player", "Mira?")
    reply = scene.turn(deadline_ms=0.001)
    assert reply.text() == ""
    assert memory(mira) == []
    assert scene.next_speaker() is mira
    scene.settle()
    assert memory(mira) == memory(aldric) == [heard("Player", "Mira?")]


def test_who_comes_late_and_who_leaves_early(runtime: Runtime, scene: Scene) -> None:
    mira, aldric, zoe = scene.agents
    scene.leave(zoe)
    scene.say("Player", "A secret.")
    scene.leave(aldric)
    scene.join(zoe)
    scene.say("Player", "Good night.")
    scene.settle()
    assert memory(zoe) == [heard("Player", "Good night.")]
    assert memory(aldric) == [heard("Player", "A secret.")]
    assert len(memory(mira)) == 2
    with pytest.raises(NotFound, match="Aldric"):
        scene.turn(aldric)
    with pytest.raises(NotFound, match="Aldric"):
        scene.leave(aldric)
    with pytest.raises(InvalidInput, match="already"):
        scene.join(zoe)
    with pytest.raises(NotFound):
        runtime.scene("nobody")
    with pytest.raises(InvalidInput, match="nobody who could answer"):
        Scene([mira]).next_speaker()
