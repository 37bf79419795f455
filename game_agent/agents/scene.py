"""Characters within earshot of each other, who talk in turn."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from game_agent.agents.agent import Agent
from game_agent.agents.ask import Reply
from game_agent.errors import InvalidInput, NotFound

NARRATOR = "Event"
"""Who speaks where something merely happens; it reads as an observed event does."""

_Item = TypeVar("_Item")


@dataclass
class _Line:
    """The last thing that was said, which those in ``unheard`` do not remember yet."""

    speaker: str
    text: str
    game_time: float | None
    unheard: list[Agent] = field(default_factory=list)

    def reach(self, agents: Iterable[Agent]) -> None:
        """Lets them remember it, as far as they do not."""
        for agent in agents:
            if agent in self.unheard:
                self.unheard.remove(agent)
                spoken = self.text if self.speaker == NARRATOR else f"{self.speaker}: {self.text}"
                agent.observe(spoken, self.game_time)


class Scene:
    """Lets agents talk to each other, each with its own view of the world and its own memory.

    What somebody says all others in the scene overhear: it is an event in their memories, or what
    they answer when they have the next turn. It comes into the memories with the next line, or
    with ``settle``, so that a reply that was interrupted (``Reply.heard``) is overheard as far as
    it was spoken. Not safe to use from several threads at once.

        scene = runtime.scene("Mira", "Aldric")
        scene.say("Player", "Aldric, what do you owe her?")
        for piece in scene.turn():        # Aldric was named
            print(piece, end="")
        print(scene.turn().text())        # Mira, who has been silent for longest
        scene.settle()
    """

    def __init__(self, agents: Iterable[Agent]) -> None:
        self._agents: list[Agent] = []
        """Who has been silent for longest first."""
        self._line: _Line | None = None
        self._speaking: tuple[Agent, Reply, float | None] | None = None
        for agent in agents:
            self.join(agent)

    @property
    def agents(self) -> tuple[Agent, ...]:
        """Who is within earshot, who has been silent for longest first."""
        return tuple(self._agents)

    def join(self, agent: Agent) -> None:
        """From now on it hears what is said. Raises InvalidInput if it is there."""
        if agent in self._agents:
            raise InvalidInput(f"{agent.name} is in the scene already", where="agent")
        self._agents.append(agent)

    def leave(self, agent: Agent) -> None:
        """It has heard all that was said so far, and hears no more. Raises as ``settle`` does."""
        self._member(agent)
        self.settle()
        self._agents.remove(agent)

    def say(self, speaker: str, text: str, game_time: float | None = None) -> None:
        """Somebody says a given line, the player or a character; all hear it.

        Raises InvalidInput while a reply is on its way.
        """
        self.settle()
        self._line = _Line(speaker, text, game_time, list(self._agents))
        own = [agent for agent in self._agents if agent.name == speaker]
        self._line.reach(own)
        self._agents = _last(self._agents, own)

    def tell(self, text: str, game_time: float | None = None) -> None:
        """Something happens that all notice. Raises InvalidInput while a reply is on its way."""
        self.say(NARRATOR, text, game_time)

    def turn(
        self, agent: Agent | None = None, *, game_time: float | None = None, **options: object
    ) -> Reply:
        """The next character speaks, in answer to the last line that is not its own.

        agent:   who; None: whom the last line names, else who has been silent for longest
        options: those of :class:`AskOptions`; the turn is always remembered

        Raises InvalidInput while a reply is on its way and if nothing was said yet, NotFound for
        somebody who is not in the scene, and what ``Agent.say`` raises.
        """
        self._end_reply()
        line = self._line
        if line is None:
            raise InvalidInput("nothing was said yet; begin with say or tell", where="scene")
        speaker = self.next_speaker() if agent is None else self._member(agent)
        if speaker not in line.unheard:
            raise InvalidInput(f"{speaker.name} has heard nothing new to answer", where="agent")
        options = {**options, "game_time": game_time, "remember": True}
        reply = speaker.say(line.speaker, line.text, **options)
        line.unheard.remove(speaker)
        self._speaking = (speaker, reply, game_time)
        self._agents = _last(self._agents, [speaker])
        return reply

    def next_speaker(self) -> Agent:
        """Whose turn it is: whom the last line names first, else who was silent for longest.

        Raises InvalidInput if there is nobody who could answer the last line.
        """
        self._end_reply()
        line = self._line
        able = [] if line is None else [a for a in self._agents if a in line.unheard]
        if line is None or not able:
            raise InvalidInput("there is nobody who could answer", where="scene")
        places = {agent: _place(agent.name, line.text) for agent in able}
        named = [agent for agent in able if places[agent] >= 0]
        return min(named, key=lambda agent: places[agent], default=able[0])

    def settle(self) -> None:
        """Let everybody remember the last line; before a save, or when the scene ends.

        Raises InvalidInput while a reply is on its way.
        """
        self._end_reply()
        if self._line is not None:
            self._line.reach(list(self._line.unheard))

    def _end_reply(self) -> None:
        """Makes the reply to the last line the last line, if there was one."""
        if self._speaking is None or self._line is None:
            return
        speaker, reply, game_time = self._speaking
        if not reply.ask.done:
            message = f"{speaker.name} is still speaking: read the reply to its end, or cancel it"
            raise InvalidInput(message, where="scene")
        self._speaking = None
        if reply.ask.turn is None:  # it said nothing, and so remembers nothing of this
            self._line.unheard.append(speaker)
        if spoken := _spoken(reply):
            self._line.reach(list(self._line.unheard))
            others = [agent for agent in self._agents if agent is not speaker]
            self._line = _Line(speaker.name, spoken, game_time, others)

    def _member(self, agent: Agent) -> Agent:
        if agent not in self._agents:
            raise NotFound(f"{agent.name} is not in the scene", where="agent")
        return agent


def _spoken(reply: Reply) -> str:
    """What was heard of a reply that has ended; nothing if it was forgotten meanwhile."""
    if reply.ask.turn is None:
        return ""
    memory, index = reply.ask.turn
    turn = memory.find(index)
    return "" if turn is None else turn.reply or ""


def _place(name: str, text: str) -> int:
    """Where ``text`` names somebody, -1 if nowhere."""
    match = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE)
    return -1 if match is None else match.start()


def _last(items: Iterable[_Item], moved: Iterable[_Item]) -> list[_Item]:
    """``items`` with those of ``moved`` at the end."""
    moved = list(moved)
    return [item for item in items if item not in moved] + moved
