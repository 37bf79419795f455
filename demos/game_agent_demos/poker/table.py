"""A table of no-limit Texas Hold'em, played by PokerKit's rules, and its state as JSON."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

try:  # noqa: SIM105
    from pokerkit import Automation, NoLimitTexasHoldem, State
except ImportError:  # ``run`` says what is missing
    pass

NAMES = ("Mira", "Bram", "Odo", "Tess", "Ulf", "Wren")
STACK = 1000
BLINDS = (10, 20)
STREETS = ("preflop", "flop", "turn", "river")
RANKS = {"T": "10", "J": "jack", "Q": "queen", "K": "king", "A": "ace"}
SUITS = {"c": "clubs", "d": "diamonds", "h": "hearts", "s": "spades"}

Json = dict[str, Any]


@dataclass(frozen=True)
class Action:
    """Something that the player to act may do."""

    text: str
    """For example ``call 20``."""
    told: str
    """How the others tell it: ``calls 20``."""
    do: Callable[[], object]


@dataclass
class Seat:
    """What is known of a player beside the hand that is played."""

    chips: int = STACK
    played: int = 0
    won: int = 0
    raises: int = 0
    folds: int = 0
    bought: int = STACK


class Table:
    """A game that goes on: when a hand is over the next one is dealt.

    max_hands: of the history, older ones are forgotten
    """

    def __init__(self, rng: random.Random, names: Sequence[str] = NAMES, max_hands: int = 24):
        self.names = tuple(names)
        self.seats = {name: Seat() for name in names}
        self.history: dict[str, list[str]] = {}
        self.num_hands = 0
        self._rng = rng
        self._max_hands = max_hands
        self._deal()

    @property
    def to_act(self) -> str:
        """The player whose turn it is."""
        index = self._game.actor_index
        assert index is not None
        return self._order[index]

    @property
    def to_call(self) -> int:
        """Chips that the player to act must add to stay in the hand."""
        return self._game.checking_or_calling_amount or 0

    @property
    def pot(self) -> int:
        return int(self._game.total_pot_amount)

    def actions(self) -> list[Action]:
        """What the player to act may do: at most six things."""
        game = self._game
        found = []
        if self.to_call:
            found.append(Action("fold", "folds", game.fold))
            found.append(
                Action(f"call {self.to_call}", f"calls {self.to_call}", game.check_or_call)
            )
        else:
            found.append(Action("check", "checks", game.check_or_call))
        if not game.can_complete_bet_or_raise_to():
            return found
        least = game.min_completion_betting_or_raising_to_amount
        most = game.max_completion_betting_or_raising_to_amount
        assert least is not None
        assert most is not None
        verb = "raise" if max(game.bets) else "bet"
        sizes = {least, min(most, least + self.pot // 2), min(most, least + self.pot)} - {most}
        found += [self._raise(verb, amount) for amount in sorted(sizes)]
        found.append(self._raise("go all in,", most))
        return found

    def play(self, action: Action) -> None:
        """Let the player to act do ``action``, one of ``actions()``."""
        name, street = self.to_act, self._street()
        if action.text == "fold":
            self.seats[name].folds += 1
        elif not action.text.startswith(("check", "call")):
            self.seats[name].raises += 1
        action.do()
        pot = f", pot {self.pot}" if self._game.status else ""
        self._hand().append(f"{street}, {name} {action.told}{pot}")
        self._go_on()

    def state(self) -> Json:
        """The table as JSON: ``table``, ``players``, ``history``, and ``hands`` by player."""
        return {
            "table": {
                "hand": self.num_hands,
                "street": self._street(),
                "blinds": f"{BLINDS[0]} and {BLINDS[1]}",
                "pot": self.pot,
                "board": self._board(),
                "to act": self.to_act,
            },
            "players": {name: self._player(name) for name in self.names},
            "history": {hand: list(lines) for hand, lines in self.history.items()},
            "hands": {
                name: {"cards": [card_name(c) for c in self._game.hole_cards[self._index(name)]]}
                for name in self.names
            },
        }

    def _raise(self, verb: str, amount: int) -> Action:
        def do() -> object:
            return self._game.complete_bet_or_raise_to(amount)

        first, _, rest = verb.partition(" ")
        third = {"raise": "raises", "bet": "bets", "go": "goes"}[first]
        to = "to " if first == "raise" else ""
        told = f"{third} {rest} {to}{amount}" if rest else f"{third} {to}{amount}"
        return Action(f"{verb} {to}{amount}", told, do)

    def _deal(self) -> None:
        """Begin the next hand; the button moves on, and who has no chips buys new ones."""
        self.num_hands += 1
        shift = self.num_hands % len(self.names)
        self._order = (*self.names[shift:], *self.names[:shift])
        for seat in self.seats.values():
            if seat.chips < BLINDS[1]:
                seat.bought += STACK - seat.chips
                seat.chips = STACK
            seat.played += 1
        automations = (
            Automation.ANTE_POSTING,
            Automation.BET_COLLECTION,
            Automation.BLIND_OR_STRADDLE_POSTING,
            Automation.CARD_BURNING,
            Automation.RUNOUT_COUNT_SELECTION,
            Automation.HOLE_CARDS_SHOWING_OR_MUCKING,
            Automation.HAND_KILLING,
            Automation.CHIPS_PUSHING,
            Automation.CHIPS_PULLING,
        )
        stacks = tuple(self.seats[name].chips for name in self._order)
        self._game: State = NoLimitTexasHoldem.create_state(
            automations, True, 0, BLINDS, BLINDS[1], stacks, len(stacks)
        )
        deck = sorted(self._game.deck_cards, key=repr)
        self._rng.shuffle(deck)
        self._game.deck_cards = deque(deck)
        while self._game.can_deal_hole():
            self._game.deal_hole()
        self.history[self._hand_name()] = []
        if len(self.history) > self._max_hands:
            del self.history[next(iter(self.history))]
        self._go_on()

    def _go_on(self) -> None:
        """Deal cards and hands until somebody has to act."""
        while self._game.status and self._game.can_deal_board():
            self._game.deal_board()
        if self._game.status:
            return
        for index, name in enumerate(self._order):
            self.seats[name].chips = int(self._game.stacks[index])
            gain = int(self._game.payoffs[index])
            if gain > 0:
                self.seats[name].won += 1
                self._hand().append(f"{name} wins {gain}")
        self._deal()

    def _hand_name(self) -> str:
        return f"hand {self.num_hands}"

    def _hand(self) -> list[str]:
        return self.history[self._hand_name()]

    def _street(self) -> str:
        return STREETS[self._game.street_index or 0]

    def _board(self) -> str:
        cards = [card_name(card) for cards in self._game.board_cards for card in cards]
        return ", ".join(cards) or "no cards yet"

    def _index(self, name: str) -> int:
        return self._order.index(name)

    def _player(self, name: str) -> Json:
        index, seat = self._index(name), self.seats[name]
        is_in = self._game.statuses[index]
        chips = int(self._game.stacks[index])
        return {
            "chips": chips,
            "bet": int(self._game.bets[index]),
            "position": self._position(index),
            "is": ("all in" if not chips else "in the hand") if is_in else "out of the hand",
            "hands played": seat.played,
            "hands won": seat.won,
            "raises so far": seat.raises,
            "folds so far": seat.folds,
            "bought": seat.bought,
        }

    def _position(self, index: int) -> str:
        last = len(self._order) - 1
        return {0: "small blind", 1: "big blind", last: "button"}.get(index, f"seat {index + 1}")


def card_name(card: object) -> str:
    """``ace of spades`` for PokerKit's ``As``."""
    rank, suit = repr(card)[0], repr(card)[1]
    return f"{RANKS.get(rank, rank)} of {SUITS[suit]}"
