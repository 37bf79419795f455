"""What an agent is, sees and remembers, and the prompts that come of it."""

from __future__ import annotations

import threading
from collections.abc import Collection
from collections.abc import Sequence as Seq
from itertools import islice

from game_agent.agents.ask import Ask, AskOptions
from game_agent.agents.blockcache import BlockCache
from game_agent.agents.budget import MemoryBudget
from game_agent.agents.lore import ActiveLore, Lorebook
from game_agent.agents.memory import Memory
from game_agent.agents.persona import Persona
from game_agent.agents.pins import Pins
from game_agent.agents.prompt import Prompt, build_prompt, character_block
from game_agent.agents.remembered import event_text
from game_agent.agents.summary import Summarizer
from game_agent.agents.task import Setting
from game_agent.agents.values import View
from game_agent.agents.world import World
from game_agent.blocks.block import Block, block_keys
from game_agent.engine import Engine, Request
from game_agent.engine.contextual import ContextualCache
from game_agent.engine.request import Mode
from game_agent.errors import TooLarge


class Mind:
    """A character with its place in a world, its lore and its memory; all under one lock."""

    def __init__(
        self,
        persona: Persona,
        world: World,
        sees: Collection[str],
        engine: Engine,
        cache: BlockCache,
        lock: threading.RLock,
        default_mode: Mode,
    ) -> None:
        self._engine = engine
        self._cache = cache
        self._lock = lock
        self._default_mode = default_mode
        self._contextual = ContextualCache(engine.settings.repair_tokens)
        self.memory = Memory()
        self.budget = MemoryBudget()
        self.lore: Lorebook | None = None
        self._summarizer = Summarizer(engine, cache, lock, default_mode)
        self._memory_room: int | None = None
        self._profile_pin = Pins(engine, default_mode)
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

    def request(self, ask: Ask) -> Request:
        """What to ask the engine, as things stand now; ``ask`` notes what it was made of.

        Raises what ``Question.task`` raises, and :class:`TooLarge`.
        """
        options = ask.options
        event = self._cache.encoder.event(event_text(ask.speaker, ask.text))
        ask.seq = self.world.seq
        mode = options.mode or self._default_mode
        ask.task = task = ask.question.task(options.max_tokens, self._setting())
        return Request(
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

    def remember(self, ask: Ask, reply: str) -> None:
        """The answer to ``ask`` is a turn of the memory now."""
        turn = self.memory.add_turn(ask.speaker, ask.text, reply, ask.options.game_time)
        ask.turn = (self.memory, turn.index)
        if ask.heard_chars is not None:
            self.memory.heard(turn.index, ask.heard_chars)
        self._sum_up()

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
