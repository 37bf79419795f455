"""The process that plays: a TextWorld game whose world a server's companion answers about."""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

from game_agent.client import Client
from game_agent.clock import Clock, SystemClock
from game_agent.errors import GameAgentError
from game_agent_demos import INTERRUPTED
from game_agent_demos.game import Step, build_game, play
from game_agent_demos.questions import Question, agrees, next_question
from game_agent_demos.screen import Screen
from game_agent_demos.state import State, difference, num_changed, world_state
from game_agent_demos.turn import Turn, summary

WORLD = "house"
COMPANION = "Mira"
PROFILE = "Mira is a guard."
MAX_TOKENS = 48


class Player:
    """Plays a game against a server, one action per tick.

    tick_s: seconds from one tick to the next; a tick that takes longer delays those after it
    """

    def __init__(
        self,
        client: Client,
        screen: Screen,
        rng: random.Random,
        *,
        tick_s: float = 0.5,
        clock: Clock | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.turns: list[Turn] = []
        self._client = client
        self._screen = screen
        self._rng = rng
        self._tick_s = tick_s
        self._clock = clock or SystemClock()
        self._sleep = sleep

    def play(self, steps: Iterable[Step]) -> None:
        """Put the first step's world on the server; send what each other step changes in it."""
        steps = iter(steps)
        before = next(steps)
        state = world_state(before.facts)
        self._begin(state)
        for tick, step in enumerate(steps, 1):
            due_s = self._clock.now_s() + self._tick_s
            after = world_state(step.facts)
            num_facts_changed = num_changed(before.facts, step.facts)
            turn = self._turn(tick, step.action, num_facts_changed, state, after)
            self.turns.append(turn)
            self._screen.show(turn)
            before, state = step, after
            self._sleep(max(0.0, due_s - self._clock.now_s()))

    def _begin(self, state: State) -> None:
        self._client.world_put(WORLD, state)
        self._client.agent_put(COMPANION, world=WORLD, profile=PROFILE, sees=[""])
        self._client.warm(COMPANION)
        # The blocks are made ready meanwhile, as behind a loading screen.
        self._sleep(self._tick_s)

    def _turn(
        self, tick: int, action: str, num_facts_changed: int, before: State, after: State
    ) -> Turn:
        question = next_question(before, after, self._rng)
        self._screen.ask(tick, action, question.text)
        patch = difference(before, after)
        sent_s = self._clock.now_s()
        change = self._client.tick(WORLD, tick, patch=patch, asks=[_ask(question)])
        [stream] = change.asks
        heard_s = []
        for piece in stream:
            heard_s.append(self._clock.now_s())
            self._screen.hear(piece)
        answer = stream.result()
        ttft_s = min([*heard_s, self._clock.now_s()]) - sent_s
        return Turn(
            tick=tick,
            action=action,
            num_facts_changed=num_facts_changed,
            num_blocks_changed=change.reply["blocks_changed"],
            num_blocks=answer.usage["blocks"],
            cached_tokens=answer.usage["cached_tokens"],
            encoded_tokens=answer.usage["encoded_tokens"],
            prefill_tokens=answer.usage["prefill_tokens"],
            ttft_ms=ttft_s * 1000,
            question=question.text,
            answer=answer.text.strip(),
            agrees=agrees(question, answer.text),
        )


def _ask(question: Question) -> dict[str, Any]:
    # Nothing is remembered: an earlier answer may be out of date, and what is asked is now.
    return {
        "agent": COMPANION,
        "event": question.text,
        "max_tokens": MAX_TOKENS,
        "stream": True,
        "remember": False,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Play until the game is won or ``--ticks`` are over; the exit status."""
    options = _parse(arguments)
    screen = Screen()
    try:
        steps = play(build_game(options.seed))
        with Client(options.endpoint, timeout_s=options.timeout_s) as client:
            model = client.hello("TextWorld demo")["model"]
            screen.tell(f"{COMPANION} speaks with {model['name']}; the game begins.")
            return _run(client, screen, islice(steps, options.ticks and options.ticks + 1), options)
    except GameAgentError as error:
        print(f"game-agent: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(client: Client, screen: Screen, steps: Iterable[Step], options: argparse.Namespace) -> int:
    clock = SystemClock()
    start_s = clock.now_s()
    player = Player(client, screen, random.Random(options.seed), tick_s=options.tick_s)
    status = 0
    try:
        with screen:
            player.play(steps)
    except KeyboardInterrupt:
        status = INTERRUPTED
    screen.sum_up(summary(player.turns, clock.now_s() - start_s))
    return status


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoint", required=True, help="where the server listens")
    parser.add_argument("--seed", type=int, required=True, help="which game to build")
    parser.add_argument("--ticks", type=int, help="how many actions to play; default: all")
    parser.add_argument("--tick-s", type=float, default=0.5, help="seconds from tick to tick")
    parser.add_argument(
        "--timeout-s", type=float, default=120.0, help="how long to wait for a reply"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
