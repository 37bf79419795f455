"""An agent: a character that sees part of a world, remembers, and answers."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from collections.abc import Sequence as Seq
from dataclasses import asdict
from typing import Any

import numpy as np

from game_agent.agents.actions import Action, parse_actions
from game_agent.agents.ask import Ask, AskListener, AskOptions, Reply
from game_agent.agents.blockcache import BlockCache
from game_agent.agents.dialogue import Dialogue
from game_agent.agents.limits import MAX_NAME_CHARS, MAX_SPEECH_CHARS, check_text
from game_agent.agents.memory import Turn
from game_agent.agents.mind import Mind
from game_agent.agents.persona import Persona
from game_agent.agents.pins import Pins
from game_agent.agents.question import SAY, Act, Choose
from game_agent.agents.task import Question
from game_agent.agents.world import World
from game_agent.clock import Clock
from game_agent.engine import Engine, Request, Waiter
from game_agent.engine.request import Mode
from game_agent.errors import TooLarge


class Agent(Mind):
    """A character in a world. Made by ``Runtime.agent``; safe to use from any thread."""

    def __init__(
        self,
        persona: Persona,
        world: World,
        sees: Collection[str],
        engine: Engine,
        cache: BlockCache,
        lock: threading.RLock,
        clock: Clock,
        default_mode: Mode,
    ) -> None:
        super().__init__(persona, world, sees, engine, cache, lock, default_mode)
        self._clock = clock
        self._dialogue = Dialogue(self, engine, lock, clock)
        self._kept = Pins(engine, default_mode)

    def observe(self, text: str, game_time: float | None = None, *, pinned: bool = False) -> Turn:
        """Put an event into memory; nothing is generated. Raises :class:`TooLarge`."""
        check_text(text, "event", MAX_SPEECH_CHARS, "the event")
        with self._lock:
            turn = self.memory.observe(text, game_time, pinned=pinned)
            self._sum_up()
            return turn

    def pin(self, index: int, *, pinned: bool = True) -> None:
        """Keep a turn of the history in every prompt, or stop that. Raises :class:`NotFound`."""
        with self._lock:
            self.memory.pin(index, pinned=pinned)

    def history(self, last: int | None = None) -> list[dict[str, object]]:
        """What is remembered, oldest first, as plain values."""
        with self._lock:
            return [asdict(turn) for turn in self.memory.turns(last)]

    def recall(self, query: str, limit: int = 5) -> list[dict[str, object]]:
        """Remembered turns that ``query`` is about, the best first, as plain values."""
        with self._lock:
            return [asdict(turn) for turn in self.memory.recall(query, limit)]

    def rewind(self, game_time: float) -> int:
        """Forget what came after ``game_time``; returns the number of turns forgotten.

        Open questions belong to the time that is given up: they end, and are not remembered.
        """
        with self._lock:
            self.abandon()
            return self.memory.rewind(game_time)

    def abandon(self) -> None:
        """End all open questions; none of them is remembered."""
        self._dialogue.end_all(is_forgotten=True)

    def warm(self, *, keep: bool = False) -> Waiter:
        """Have all blocks of the next prompt encoded in the background, at the lowest priority.

        ``wait()`` on the result returns once they are in the store. keep: they stay there, as they
        are now, until the next ``warm`` or the agent's end (not in contextual mode).

        Raises :class:`TooLarge` where all that is to be kept would take more than half of the KV
        memory.
        """
        waiter = Waiter()
        with self._lock:
            mode = self._default_mode
            blocks = self._prompt(AskOptions().max_tokens, 0, None).blocks
            if not self._kept.keep(blocks if keep else ()):
                raise TooLarge(
                    "what agents keep would take more than half of the KV memory; give it more "
                    "(kv_memory_bytes, --kv-memory), or keep fewer agents' blocks",
                    where="keep",
                )
            request = Request(
                blocks,
                np.empty(0, np.int32),
                mode=mode,
                max_tokens=0,
                priority=-1,
                contextual=self._cache_for(mode),
            )
            self._engine.submit(request, waiter)
        return waiter

    def say(self, speaker: str, text: str, **options: object) -> Reply:
        """Ask for spoken text; iterate over the result for pieces as they come.

        ``options`` are those of :class:`AskOptions`. Raises what :meth:`ask` raises.
        """
        return self._put(SAY, speaker, text, AskOptions(**options))  # type: ignore[arg-type]

    def choose(
        self,
        speaker: str,
        text: str,
        choices: Seq[str],
        *,
        normalize: bool = False,
        **options: object,
    ) -> Reply:
        """Ask for one of ``choices``; ``choice()`` of the result has it, with the scores of all.

        Nothing is generated: all are scored in one forward pass, see :class:`Choose`. ``options``
        are those of :class:`AskOptions`. Raises what :meth:`ask` raises.
        """
        question = Choose(tuple(choices), normalize)
        return self._put(question, speaker, text, AskOptions(**options))  # type: ignore[arg-type]

    def act(
        self,
        speaker: str,
        text: str,
        actions: Seq[Action | Mapping[str, Any]] | None = None,
        *,
        schema: Mapping[str, Any] | None = None,
        **options: object,
    ) -> Reply:
        """Ask for one of ``actions`` (None: its own), or for JSON under a JSON Schema.

        ``action()`` of the result has it; see :class:`Act` and :class:`Action`. ``options`` are
        those of :class:`AskOptions`. Raises what :meth:`ask` raises, and :class:`InvalidInput` for
        actions or a schema that cannot be used.
        """
        question = Act(None if actions is None else parse_actions(actions), schema)
        return self._put(question, speaker, text, AskOptions(**options))  # type: ignore[arg-type]

    def _put(self, question: Question, speaker: str, text: str, options: AskOptions) -> Reply:
        reply = Reply()
        reply.ask = self.ask(text, options, speaker=speaker, listener=reply, question=question)
        return reply

    def ask(
        self,
        text: str,
        options: AskOptions | None = None,
        *,
        speaker: str = "Player",
        peer: str = "",
        listener: AskListener,
        question: Question = SAY,
    ) -> Ask:
        """Put a question; ``listener`` hears the answer. Never waits.

        peer: on whose behalf; the engine gives peers equal shares of its time

        Raises :class:`TooLarge` or :class:`Overloaded` at once where that is known at once; an
        error met later goes to the listener.
        """
        check_text(text, "event", MAX_SPEECH_CHARS, "the event")
        check_text(speaker, "event/from", MAX_NAME_CHARS, "the speaker's name")
        ask = Ask(self._dialogue, speaker, text, options or AskOptions(), listener, peer, question)
        ask.asked_s = self._clock.now_s()
        if ask.options.deadline_ms is not None:
            ask.deadline_s = ask.asked_s + ask.options.deadline_ms / 1e3
        question.check(self._setting())  # without the lock: a large schema takes its time
        self._dialogue.add(ask)
        return ask

    def close(self) -> None:
        """End all questions and give up the view of the world."""
        with self._lock:
            self._dialogue.end_all()
            self._profile_pin.release()
            self._kept.release()
            self.world.remove_borders(self.sees)
