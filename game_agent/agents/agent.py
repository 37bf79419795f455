"""An agent: a character that sees part of a world, remembers, and answers."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from collections.abc import Sequence as Seq
from dataclasses import asdict
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from game_agent.agents.actions import Action, parse_actions
from game_agent.agents.ask import Answer, Ask, AskListener, AskOptions, Reply
from game_agent.agents.blockcache import BlockCache
from game_agent.agents.budget import MemoryBudget
from game_agent.agents.limits import MAX_NAME_CHARS, MAX_SPEECH_CHARS, check_text
from game_agent.agents.line import AskLine, report
from game_agent.agents.lore import ActiveLore, Lorebook
from game_agent.agents.memory import Memory, Turn, check_heard
from game_agent.agents.persona import Persona
from game_agent.agents.pins import Pins
from game_agent.agents.prompt import Prompt, build_prompt, character_block
from game_agent.agents.question import SAY, Act, Choose
from game_agent.agents.remembered import event_text
from game_agent.agents.summary import Summarizer
from game_agent.agents.task import Question, Setting
from game_agent.agents.values import View
from game_agent.agents.world import World
from game_agent.blocks.block import Block, block_keys
from game_agent.clock import Clock
from game_agent.engine import Completion, Engine, Request, Usage, Waiter
from game_agent.engine.contextual import ContextualCache
from game_agent.engine.request import FinishReason, Mode
from game_agent.errors import GameAgentError, TooLarge


class Agent:
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
        self._engine = engine
        self._cache = cache
        self._lock = lock
        self._clock = clock
        self._default_mode = default_mode
        self._contextual = ContextualCache(engine.settings.repair_tokens)
        self.memory = Memory()
        self.budget = MemoryBudget()
        self.lore: Lorebook | None = None
        self._line = AskLine(self._start)
        self._summarizer = Summarizer(engine, cache, lock, default_mode)
        self._memory_room: int | None = None
        self._profile_pin = Pins(engine, default_mode)
        self._kept = Pins(engine, default_mode)
        self._place(persona, world, sees)

    @property
    def name(self) -> str:
        return self.persona.name

    def update(self, persona: Persona, world: World, sees: Collection[str]) -> None:
        """Another profile, world or view; memory stays. Raises as ``World.add_borders`` does."""
        with self._lock:
            old_world, old_sees = self.world, self.sees
            self._place(persona, world, sees)
            old_world.remove_borders(old_sees)

    def _place(self, persona: Persona, world: World, sees: Collection[str]) -> None:
        world.add_borders(tuple(sees))
        self.persona, self.world, self.sees = persona, world, tuple(sees)
        self.character = persona.character
        # Pinned as far as there is room for pins; it is part of every prompt.
        self._profile_pin.keep([character_block(self._cache, self.character)])

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
        with self._lock:
            for ask in self._line.open():
                ask.is_forgotten = True
                ask.cancel()

    def inspect(
        self, text: str | None = None, *, speaker: str = "Player", mode: Mode | None = None
    ) -> list[dict[str, object]]:
        """The prompt that ``text`` would be asked with now, block by block, as plain values.

        Each has ``source``, ``text`` (as the model reads it, without special tokens), ``tokens``
        (their number) and ``cached`` (whether it is encoded already). The event comes last.
        """
        with self._lock:
            encoder = self._cache.encoder
            event = None if text is None else encoder.event(event_text(speaker, text))
            num_tokens = 0 if event is None else len(event)
            prompt = self._prompt(AskOptions().max_tokens, num_tokens, text)
        keys = self._keys(prompt.blocks, mode or self._default_mode)
        rows = [
            (source, block.tokens, key is not None and key in self._engine.store)
            for source, block, key in zip(prompt.sources, prompt.blocks, keys, strict=True)
        ]
        sink = self._engine.runner.sink
        if sink is not None and (mode or self._default_mode) == "block":
            rows.insert(0, ("sink", sink.tokens, self._engine.has_sink))
        if event is not None:
            rows.append(("event", event, False))
        return [
            {
                "source": source,
                "text": encoder.tokenizer.decode(tokens.tolist()),
                "tokens": len(tokens),
                "cached": cached,
            }
            for source, tokens, cached in rows
        ]

    def _keys(self, blocks: Seq[Block], mode: Mode) -> Seq[bytes | None]:
        if mode == "contextual":
            return self._contextual.keys(blocks)
        return block_keys(self._engine.runner.digest, blocks, mode)

    def _cache_for(self, mode: Mode) -> ContextualCache | None:
        return self._contextual if mode == "contextual" else None

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
        ask = Ask(self, speaker, text, options or AskOptions(), listener, peer, question)
        ask.asked_s = self._clock.now_s()
        if ask.options.deadline_ms is not None:
            ask.deadline_s = ask.asked_s + ask.options.deadline_ms / 1e3
        question.check(self._setting())  # without the lock: a large schema takes its time
        with self._lock:
            if ask.options.replaces:
                for other in self._line.open():
                    other.cancel("superseded")
            is_begun = self._line.add(ask)
            if not is_begun and ask.deadline_s is not None:
                ask.timer = self._engine.call_at(ask.deadline_s, partial(ask.cancel, "deadline"))
        return ask

    def close(self) -> None:
        """End all questions and give up the view of the world."""
        with self._lock:
            for ask in self._line.open():
                ask.cancel()
            self._profile_pin.release()
            self._kept.release()
            self.world.remove_borders(self.sees)

    def _start(self, ask: Ask) -> None:
        """Build the prompt from what is known now and hand it to the engine."""
        options = ask.options
        if ask.timer is not None:
            ask.timer.cancel()
        event = self._cache.encoder.event(event_text(ask.speaker, ask.text))
        try:
            ask.seq = self.world.seq
            mode = options.mode or self._default_mode
            ask.task = task = ask.question.task(options.max_tokens, self._setting())
            request = Request(
                self._prompt(task.reserve_tokens, len(event), ask.text, task.told).blocks,
                event,
                mode=mode,
                contextual=self._cache_for(mode),
                max_tokens=task.max_tokens,
                options=task.options,
                normalize=task.normalize,
                grammar=task.grammar,
                sampling=options.sampling(),
                stop=options.stop if task.is_spoken else (),
                priority=options.priority,
                deadline_s=ask.deadline_s,
                peer=ask.peer,
            )
            ask.handle = self._engine.submit(request, ask)
        except GameAgentError:
            ask.done = True
            raise

    def _setting(self) -> Setting:
        view = View(self.name, self.world.state, self.sees, self.world.rules)
        return Setting(self._engine, view, self.persona.actions)

    def _prompt(
        self, reserve_tokens: int, event_tokens: int, text: str | None, told: str = ""
    ) -> Prompt:
        """The prompt as things stand; ``told`` becomes a block right before the event."""
        last = self._cache.block(told, "actions") if told else None
        event_tokens += len(last) if last else 0
        limit = self._engine.runner.max_context_tokens
        reserve = min(reserve_tokens, limit // 4)
        if event_tokens + reserve > limit:
            raise TooLarge(
                f"the event has {event_tokens} tokens, the model's context holds {limit}",
                where="event",
            )
        prompt = build_prompt(
            self._cache,
            self.character,
            self.world.parts(self.sees),
            self._active_lore(text),
            self.memory,
            limit - event_tokens - reserve,
            self.budget,
            text,
        )
        self._memory_room = prompt.memory_room
        return prompt.followed_by(last, "actions") if last else prompt

    def _sum_up(self) -> None:
        """A turn is new: if the memory outgrows its room, have the oldest turns summed up."""
        if self.budget.summarize and self._memory_room is not None:
            self._summarizer.consider(self.memory, self.character, self._memory_room)

    def _active_lore(self, text: str | None) -> list[ActiveLore]:
        """What the world's lorebook and its own have to tell about ``text`` and what led to it."""
        books = [book for book in (self.world.lore, self.lore) if book is not None]
        depth = max((book.max_scan_depth for book in books), default=0)
        said = [] if text is None else [text]
        messages = [*said, *islice(self.memory.messages(), depth)]
        return [book.active(messages) for book in books]

    def ask_heard(self, ask: Ask, num_chars: int) -> None:
        check_heard(num_chars)
        with self._lock:
            ask.heard_chars = num_chars
            if ask.turn is not None:
                # Its own memory: one that was loaded since may have another turn of that index.
                memory, index = ask.turn
                memory.heard(index, num_chars)

    def cancel_ask(self, ask: Ask, reason: FinishReason) -> None:
        with self._lock:
            if ask.done:
                return
            if ask.handle is not None:
                ask.handle.cancel(reason)
                return
            self._line.leave(ask)
            ask.done = True
            if ask.timer is not None:
                ask.timer.cancel()
        waited_ms = 1e3 * (self._clock.now_s() - ask.asked_s)
        usage = Usage(queue_ms=waited_ms, ttft_ms=waited_ms, total_ms=waited_ms)
        ask.listener.on_done(Answer("", self.world.seq, reason, usage))

    def ask_finished(self, ask: Ask, completion: Completion) -> None:
        """The engine is done with ``ask``: remember it, begin the next, tell its listener."""
        assert ask.task is not None, "the engine answers what it was asked"
        try:
            outcome = ask.task.read(completion)
        except GameAgentError as error:
            self.ask_failed(ask, error)
            return
        with self._lock:
            if not ask.is_forgotten and outcome.reply is not None:
                turn = self.memory.add_turn(
                    ask.speaker, ask.text, outcome.reply, ask.options.game_time
                )
                ask.turn = (self.memory, turn.index)
                if ask.heard_chars is not None:
                    self.memory.heard(turn.index, ask.heard_chars)
                self._sum_up()
            ask.done = True
            failed = self._line.end(ask)
        ask.listener.on_done(
            Answer(
                outcome.text,
                ask.seq,
                completion.finish_reason,
                completion.usage,
                outcome.action,
                outcome.choice,
            )
        )
        report(failed)

    def ask_failed(self, ask: Ask, error: GameAgentError) -> None:
        with self._lock:
            ask.done = True
            failed = self._line.end(ask)
        ask.listener.on_error(error)
        report(failed)
