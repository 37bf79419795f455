"""Lorebooks: entries that are told when the talk comes to one of their keys.

The rules are those of the Character Card specifications, version 2 and 3; what these leave open is
said at :class:`Lorebook`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from game_agent.agents.decorators import Decorators, read_decorators
from game_agent.agents.fields import Fields
from game_agent.agents.keys import Key, KeyIndex, read_keys
from game_agent.agents.limits import MAX_COUNT, MAX_LORE_CHARS, check_text
from game_agent.agents.macros import without_comments
from game_agent.agents.patch import check_json
from game_agent.agents.patterns import Pattern, PatternIndex, read_patterns
from game_agent.agents.pointer import Json
from game_agent.agents.rendering import collapse
from game_agent.errors import InvalidInput, TooLarge

SPEC = "lorebook_v3"
DEFAULT_SCAN_DEPTH = 4
MAX_SCAN_DEPTH = 1000
MAX_ENTRIES = 50_000


@dataclass(frozen=True)
class LoreEntry:
    """One entry of a lorebook, as far as prompts depend on it."""

    text: str
    """The text of its block, in which ``{{char}}`` and ``{{user}}`` still stand."""
    name: str
    """For people: where it comes from."""
    insertion_order: float
    priority: float
    """Those of lower priority give way when the token budget is used up."""
    is_constant: bool
    keys: tuple[Key | Pattern, ...] = ()
    secondary_keys: tuple[Key | Pattern, ...] = ()
    """If not empty, one of them must be mentioned too."""
    additional_keys: tuple[Key | Pattern, ...] = ()
    """As ``secondary_keys``, from a decorator."""
    exclude_keys: tuple[Key | Pattern, ...] = ()
    """If a message mentions one of them, the entry is not told."""
    scan_depth: int | None = None
    """Messages that are looked at for its keys; None: as many as the book says."""
    gives_way: bool = False
    """Before all others."""
    is_before_char: bool = False
    """It is told before the character."""
    is_after_char: bool = False
    """It is told behind those that are not."""

    @property
    def conditions(self) -> tuple[tuple[Key | Pattern, ...], ...]:
        """Of each that is not empty one key must be mentioned."""
        return (() if self.is_constant else self.keys, self.secondary_keys, self.additional_keys)

    @property
    def all_keys(self) -> tuple[Key | Pattern, ...]:
        return (*self.keys, *self.secondary_keys, *self.additional_keys, *self.exclude_keys)


@dataclass(frozen=True)
class ActiveLore:
    """Entries to be told now, in order of insertion, and how many tokens they may have in all."""

    entries: tuple[LoreEntry, ...]
    token_budget: int | None

    def by_priority(self) -> list[LoreEntry]:
        """The entries, those that give way last first: constant ones, then by priority."""
        return sorted(self.entries, key=lambda e: (e.gives_way, not e.is_constant, -e.priority))


class Lorebook:
    """Entries and the rules of the book. Immutable; safe to use from any thread.

    A key is mentioned where a text contains it, white space and (unless ``case_sensitive``) case
    aside; in Latin, Greek and Cyrillic script it must begin where a word does. The last
    ``scan_depth`` messages are looked at, 4 if the book does not say; with ``recursive_scanning``
    also the content of entries that are told. Decorators (lines that begin with ``@@``) are cut
    off; those of ``decorators.py`` are followed. Entries for ``before_char`` open the prompt; all
    others stand behind the character and the world, those for ``after_char`` last; each by order of
    insertion. Keys of entries with ``use_regex`` are patterns (see ``patterns.py``).
    """

    def __init__(self, value: Json, where: str = "") -> None:
        """``value`` is a lorebook of a card: an object with ``entries``; or a file of version 3, an
        object with ``spec`` "lorebook_v3" and the book as ``data``.

        Raises InvalidInput for values of other types, TooLarge above a limit; ``where`` is put
        before the JSON Pointer that the error has.
        """
        check_json(value, where)
        if not isinstance(value, Mapping):
            raise InvalidInput("a lorebook is an object", where=where)
        if value.get("spec") == SPEC:
            value, where = value.get("data"), f"{where}/data"
            if not isinstance(value, Mapping):
                raise InvalidInput("a lorebook is an object", where=where)
        self.value: Mapping[str, Json] = value
        """What it was made of, unknown fields included."""
        fields = Fields(value, where)
        depth = fields.number("scan_depth", DEFAULT_SCAN_DEPTH)
        self.scan_depth = min(max(int(depth), 0), MAX_SCAN_DEPTH)
        budget = fields.number("token_budget", -1)
        self.token_budget = min(int(budget), MAX_COUNT) if budget >= 0 else None
        self.is_recursive = fields.flag("recursive_scanning", False)
        self.num_entries = len(fields.sequence("entries"))
        self.entries = _entries(fields.sequence("entries"), f"{where}/entries")
        depths = (e.scan_depth for e in self.entries if e.scan_depth is not None)
        self.max_scan_depth = max(self.scan_depth, *depths, 0)
        self._constant = tuple(i for i, entry in enumerate(self.entries) if entry.is_constant)
        self._users = _users(self.entries)
        self._index = KeyIndex(key for key in self._users if not isinstance(key, Pattern))
        patterns = (key for key in self._users if isinstance(key, Pattern))
        self._patterns = PatternIndex(patterns, f"{where}/entries")
        # A message is looked at by every question until it is too old.
        self._mentioned = lru_cache(maxsize=1024)(self._find)

    def _find(self, text: str) -> frozenset[Key | Pattern]:
        return self._index.mentioned(text) | self._patterns.mentioned(text)

    def active(self, messages: Iterable[str]) -> ActiveLore:
        """What to tell, given the latest messages, the newest first."""
        said: list[frozenset[Key | Pattern]] = [frozenset()]
        """At n, what the latest n messages mention."""
        for message in islice(messages, self.max_scan_depth):
            said.append(said[-1] | self._mentioned(message))
        nothing: set[Key | Pattern] = set()
        told = {i for i in self._constant if self._is_met(i, said, nothing)}
        contained = self._contained(told)
        new: Set[Key | Pattern] = said[-1] | contained
        while new:
            users = {number for key in new for number in self._users.get(key, ())} - told
            added = [i for i in users if self._is_met(i, said, contained)]
            told.update(added)
            new = self._contained(added) - contained
            contained |= new
        return ActiveLore(tuple(self.entries[i] for i in sorted(told)), self.token_budget)

    def _is_met(
        self, number: int, said: Sequence[Set[Key | Pattern]], contained: Set[Key | Pattern]
    ) -> bool:
        entry = self.entries[number]
        depth = self.scan_depth if entry.scan_depth is None else entry.scan_depth
        heard = said[min(depth, len(said) - 1)]
        if any(key in heard for key in entry.exclude_keys):
            return False
        return all(
            not keys or any(key in heard or key in contained for key in keys)
            for keys in entry.conditions
        )

    def _contained(self, numbers: Collection[int]) -> set[Key | Pattern]:
        """Keys that the content of entries mentions; none if the book is not recursive."""
        if not self.is_recursive:
            return set()
        return {key for i in numbers for key in self._mentioned(self.entries[i].text)}


def _entries(values: Sequence[Json], where: str) -> tuple[LoreEntry, ...]:
    """Those that can be told, in the order in which they stand in a prompt."""
    if len(values) > MAX_ENTRIES:
        message = f"a lorebook has at most {MAX_ENTRIES} entries, this one {len(values)}"
        raise TooLarge(message, where=where)
    made = [_entry(value, f"{where}/{number}", number) for number, value in enumerate(values)]
    told = [entry for entry in made if entry is not None]
    told.sort(key=lambda e: (not e.is_before_char, e.is_after_char, e.insertion_order))
    return tuple(told)


def _users(entries: Sequence[LoreEntry]) -> dict[Key | Pattern, list[int]]:
    """The indices of the entries that depend on a key."""
    users: dict[Key | Pattern, list[int]] = defaultdict(list)
    for number, entry in enumerate(entries):
        for key in entry.all_keys:
            users[key].append(number)
    return users


def _entry(value: Json, where: str, number: int) -> LoreEntry | None:
    """An entry that can be told, None for one that never is."""
    if not isinstance(value, Mapping):
        raise InvalidInput("an entry of a lorebook is an object", where=where)
    fields = Fields(value, where)
    order = fields.number("insertion_order", 0)
    content = fields.text("content")
    check_text(content, f"{where}/content", MAX_LORE_CHARS, "an entry")
    says = read_decorators(without_comments(content))
    is_constant = fields.flag("constant", False) and not fields.flag("use_regex", False)
    is_enabled = fields.flag("enabled", True) and (says.activate or not says.dont_activate)
    name = collapse(fields.text("name") or fields.text("comment")) or str(number)
    entry = LoreEntry(
        text=says.content,
        name=name,
        scan_depth=None if says.scan_depth is None else min(says.scan_depth, MAX_SCAN_DEPTH),
        is_constant=is_constant or says.activate,
        insertion_order=order,
        priority=fields.number("priority", order),
        gives_way=says.ignore_on_max_context,
        is_before_char=fields.text("position") == "before_char",
        is_after_char=fields.text("position") == "after_char",
        **_keys(fields, says, name, where, is_enabled=is_enabled),
    )
    is_reachable = bool(entry.keys) or entry.is_constant
    return entry if is_enabled and entry.text and is_reachable else None


def _keys(
    fields: Fields, says: Decorators, name: str, where: str, *, is_enabled: bool
) -> dict[str, tuple[Key | Pattern, ...]]:
    """All keys of an entry; those that have no say are left out."""
    is_exact = fields.flag("case_sensitive", False)
    keys, secondary = fields.texts("keys"), fields.texts("secondary_keys")
    if fields.flag("use_regex", False):
        # The specification counts no others then. Whoever disables an entry gets around a refusal.
        if says.activate or not is_enabled:
            return {}
        return {
            "keys": read_patterns(keys, is_exact, f"{where}/keys", name),
            "additional_keys": read_patterns(
                says.additional_keys, is_exact, f"{where}/content", name
            ),
        }
    is_selective = fields.flag("selective", False) and not fields.flag("constant", False)
    found = {
        "keys": read_keys(keys, is_exact, f"{where}/keys"),
        "secondary_keys": read_keys(secondary, is_exact, f"{where}/secondary_keys"),
        "additional_keys": read_keys(says.additional_keys, is_exact, f"{where}/content"),
        "exclude_keys": read_keys(says.exclude_keys, is_exact, f"{where}/content"),
    }
    if not is_selective:
        del found["secondary_keys"]
    return {} if says.activate else {**found}
