"""Several tokens in one call against one token in each step."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import VOCAB, make_checkpoint

from game_agent.blocks.block import Block
from game_agent.engine import Completion, Engine, Request, Sampling
from game_agent.engine.burst import MAX_TOKENS
from game_agent.engine.chance import Chance
from game_agent.engine.waiter import Waiter
from game_agent.errors import GameAgentError
from game_agent.model.planner import Run, build_step, own_segment
from game_agent.model.runner import ModelRunner, load_runner
from game_agent_kernels import Draws

pytest.importorskip("game_agent_kernels.native", reason="the extension is not built")

EMBEDDINGS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"dtype": "bfloat16"},
    "float16": {"dtype": "float16"},
    "tied": {"tie_word_embeddings": True},
}


class Steps:
    """An engine whose passes are counted; with ``always``, time never cuts a burst short."""

    def __init__(self, folder: Path, *, always: bool, **load: Any) -> None:
        runner = load_runner(folder, kv_memory_bytes=2**23, backend="cpu", **load)
        runner.stop_token_ids = frozenset()
        self.engine = Engine(runner)
        self.sizes: list[int] = []
        burst = runner.burst

        def counted(step: Any, slots: Any, draws: Any, news: Any, max_s: float) -> Any:
            tokens = burst(step, slots, draws, news, 1e9 if always else max_s)
            self.sizes.append(len(tokens))
            return tokens

        runner.burst = counted  # type: ignore[method-assign]
        if not always:
            runner.__class__ = type("Stepwise", (ModelRunner,), {"can_burst": False})


def requests(seed: int, **options: Any) -> list[Request]:
    rng = random.Random(seed)

    def ids(count: int) -> np.ndarray[Any, np.dtype[np.int32]]:
        return np.array([rng.randrange(5, VOCAB) for _ in range(count)], np.int32)

    blocks = [Block(ids(n)) for n in (27, 100, 16, 5)]
    return [
        Request((*blocks[i % 2 :], Block(ids(9))), ids(3 + 7 * i), max_tokens=40 + i, **options)
        for i in range(4)
    ]


def replies(done: list[Completion]) -> list[tuple[tuple[int, ...], str, str]]:
    return [(each.tokens, each.text, each.finish_reason) for each in done]


@pytest.mark.parametrize("mode", ["block", "full"])
@pytest.mark.parametrize("kv_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", EMBEDDINGS)
def test_the_same_replies(tmp_path: Path, model: str, kv_dtype: str, mode: str) -> None:
    """One reply alone, and four that end at different times."""
    folder = make_checkpoint(tmp_path, **EMBEDDINGS[model])
    by_step, by_burst = (Steps(folder, always=b, kv_dtype=kv_dtype) for b in (False, True))
    for asked in ([requests(1, mode=mode)[2]], requests(2, mode=mode)):
        expected, got = (each.engine.run(asked) for each in (by_step, by_burst))
        assert replies(got) == replies(expected)
        for one, other in zip(got, expected, strict=True):
            assert one.usage.generated_tokens == other.usage.generated_tokens == len(one.tokens)
    assert not by_step.sizes
    assert max(by_burst.sizes) == MAX_TOKENS
    assert sum(by_burst.sizes) > 60
    pools = [each.engine.runner.pool.num_free for each in (by_step, by_burst)]
    assert pools[0] == pools[1]
    for each in (by_step, by_burst):
        each.engine.close()


SAMPLINGS = [
    Sampling(temperature=0.7, seed=1),
    Sampling(temperature=1.5, seed=2, top_p=0.9),
    Sampling(),
    Sampling(temperature=1.0, seed=-3, top_p=0.8, top_k=20),
]


def test_the_same_chance(tmp_path: Path) -> None:
    """Drawn replies, and a greedy one among them, alone and together: chance stays with its reply,
    whatever a burst that ended early had foreseen."""
    by_step, by_burst = (Steps(make_checkpoint(tmp_path), always=b) for b in (False, True))
    asked = [replace(r, sampling=s) for r, s in zip(requests(5), SAMPLINGS, strict=True)]
    expected, together = (each.engine.run(asked) for each in (by_step, by_burst))
    alone = [by_burst.engine.run([request])[0] for request in asked]
    assert replies(together) == replies(alone) == replies(expected)
    assert by_burst.sizes
    assert len({each.tokens for each in expected}) == len(asked)
    stop = expected[1].tokens[10]
    for each in (by_step, by_burst):
        each.engine.runner.stop_token_ids = frozenset([stop])
    assert replies(by_burst.engine.run(asked)) == replies(by_step.engine.run(asked))
    for each in (by_step, by_burst):
        each.engine.close()


def test_chance_follows_from_the_seed() -> None:
    chance, other = Chance(7), Chance(7)
    ahead = chance.peek(100)
    assert chance.peek(3) == ahead[:3]
    assert [chance.take() for _ in range(100)] == ahead == [other.take() for _ in range(100)]
    assert all(0 <= x < 1 for x in ahead)
    assert Chance(8).take() != ahead[0]
    assert Chance(None).take() != Chance(None).take()


def test_a_token_that_ends_a_reply_ends_the_burst(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path)
    by_step, by_burst = (Steps(folder, always=b) for b in (False, True))
    asked = requests(3)
    tokens = by_step.engine.run(asked)[1].tokens
    for each in (by_step, by_burst):
        each.engine.runner.stop_token_ids = frozenset([tokens[21]])
    expected, got = (each.engine.run(asked) for each in (by_step, by_burst))
    assert replies(got) == replies(expected)
    assert got[1].finish_reason == "stop"
    assert len(got[1].tokens) <= 21
    for each in (by_step, by_burst):
        each.engine.close()


def test_what_is_new_is_not_kept_waiting(tmp_path: Path) -> None:
    """A reply that is cancelled in its tenth token has no burst after it."""
    steps = Steps(make_checkpoint(tmp_path), always=True)
    engine = steps.engine
    request = replace(requests(4)[0], max_tokens=400)
    heard: list[str] = []

    class Canceller(Waiter):
        def on_text(self, index: int, text: str) -> None:
            heard.append(text)
            if len(heard) == 10:
                steps.sizes.clear()
                handle.cancel()

    canceller = Canceller()
    handle = engine.submit(request, canceller)
    assert canceller.wait().finish_reason == "cancelled"
    assert not steps.sizes
    assert len(heard) == 10, "nothing of the burst in which it was cancelled"
    engine.close()


def first_pass(runner: ModelRunner, length: int) -> dict[str, Any]:
    """Arguments of a burst of one row at position ``length`` - 1 of its frame, two pages long."""
    half = runner.rope.inv_freq.shape[0]
    pages = np.arange(2, dtype=np.int32)
    slots = np.arange(length - 1, length + 7)
    run = Run(
        np.array([7], np.int32), length - 1, slots[:1], own_segment(pages, 0, length, half), 1
    )
    cos, sin = runner.rope.table(64)
    return {
        "tokens": np.array([7]),
        "slots": slots[:, None].copy(),
        "embedding": runner.decoder.weights.embedding,
        "cos": cos,
        "sin": sin,
        "keys": runner.pool.keys,
        "values": runner.pool.values,
        "plan": build_step([run]).plan,
        "draws": Draws.greedy(len(slots), 1),
        "stops": np.empty(0, np.int64),
        "news": np.zeros(1, np.int32),
        "max_s": 1e9,
    }


def test_when_a_burst_ends(tmp_path: Path) -> None:
    runner = load_runner(make_checkpoint(tmp_path), kv_memory_bytes=2**22, backend="cpu")
    compiled = runner.decoder.compiled
    assert compiled is not None
    runner.pool.keys.fill_(0.1)
    runner.pool.values.fill_(0.1)
    assert len(compiled.burst(**first_pass(runner, 3))) == 8
    assert len(compiled.burst(**first_pass(runner, 13))) == 4, "the page is full after the fourth"
    news = np.ones(1, np.int32)
    assert len(compiled.burst(**first_pass(runner, 3) | {"news": news})) == 1
    assert len(compiled.burst(**first_pass(runner, 3) | {"max_s": 0.0})) == 1
    tokens = compiled.burst(**first_pass(runner, 3))[:, 0]
    stops = tokens[3:4].copy()
    ended = compiled.burst(**first_pass(runner, 3) | {"stops": stops})[:, 0]
    assert ended.tolist() == tokens[: tokens.tolist().index(stops[0]) + 1].tolist()
    runner.pool.values[:, 0, :, 1] = torch.nan
    assert compiled.burst(**first_pass(runner, 3)).tolist() == [[-1]]


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"tokens": np.array([VOCAB])}, IndexError),
        ({"tokens": np.array([-1])}, IndexError),
        ({"tokens": np.array([7], np.int32)}, TypeError),
        ({"tokens": np.array([7, 8])}, ValueError),
        ({"slots": np.array([[10**6]])}, IndexError),
        ({"slots": np.empty((0, 1), np.int64)}, ValueError),
        ({"slots": np.zeros((8, 2), np.int64)}, ValueError),
        ({"slots": np.zeros((1, 8), np.int64).T}, None),
        ({"slots": np.zeros((2, 8), np.int64)[:, :1]}, TypeError),
        ({"cos": np.ones((5, 8), np.float32)}, (ValueError, IndexError)),
        ({"news": np.zeros(1, np.int64)}, TypeError),
        ({"news": np.empty(0, np.int32)}, TypeError),
        ({"embedding": torch.zeros(3, 64)}, (ValueError, IndexError)),
        ({"embedding": torch.zeros(VOCAB, 128)[:, ::2]}, TypeError),
        ({"embedding": torch.zeros(VOCAB, 32)}, ValueError),
        ({"embedding": torch.zeros(VOCAB, 64, dtype=torch.int8)}, TypeError),
        ({"cos": np.ones((64, 8))}, TypeError),
        ({"sin": np.ones((8, 64), np.float32).T}, TypeError),
        ({"stops": np.zeros(1, np.int32)}, TypeError),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(tmp_path: Path, wrong: dict[str, Any], error: Any) -> None:
    runner = load_runner(make_checkpoint(tmp_path), kv_memory_bytes=2**22, backend="cpu")
    compiled = runner.decoder.compiled
    assert compiled is not None
    arguments = first_pass(runner, 3) | wrong
    if arguments["slots"].ndim == 2:
        arguments["draws"] = Draws.greedy(*arguments["slots"].shape)
    if error is None:
        compiled.burst(**arguments)
        return
    with pytest.raises(error):
        compiled.burst(**arguments)


class Ends(Waiter):
    """Notes every end that it hears of."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[Completion | GameAgentError] = []

    def on_done(self, completion: Completion) -> None:
        self.ends.append(completion)
        super().on_done(completion)

    def on_error(self, error: GameAgentError) -> None:
        self.ends.append(error)
        super().on_error(error)


def test_each_has_one_end(tmp_path: Path) -> None:
    """One reply ends by its stop text in the middle of a burst, the other goes on."""
    steps = Steps(make_checkpoint(tmp_path), always=True)
    first, second = requests(6)[:2]
    expected = steps.engine.run([first])[0]
    stop = replace(first, stop=(expected.text[len(expected.text) // 2 :][:3],))
    waiters = [Ends(), Ends()]
    steps.engine.submit_all(list(zip((stop, second), waiters, strict=True)))
    for waiter in waiters:
        waiter.wait()
    assert [len(waiter.ends) for waiter in waiters] == [1, 1]
    steps.engine.close()


def test_one_fails_and_the_other_goes_on(tmp_path: Path) -> None:
    """Its values are spoilt while the tokens of a burst are handed out."""
    steps = Steps(make_checkpoint(tmp_path), always=True)
    first, second = requests(6)[:2]
    expected = steps.engine.run([first])[0]
    runner = steps.engine.runner

    class Spoils(Ends):
        def on_text(self, index: int, text: str) -> None:
            super().on_text(index, text)
            for sequence in steps.engine._loop.running:
                if index == 5 and sequence.request is second:
                    runner.pool.values[:, int(sequence.pages[0])] = torch.nan

    one, other = Spoils(), Ends()
    steps.engine.submit_all([(first, one), (second, other)])
    assert one.wait().tokens == expected.tokens
    with pytest.raises(GameAgentError, match="no numbers"):
        other.wait()
    assert [len(waiter.ends) for waiter in (one, other)] == [1, 1]
    assert not steps.engine._loop.running
    steps.engine.close()
