"""Are the runtime's answers those of the network that was trained?

    python bench/equivalence.py [--model FOLDER] [--scenes 200] [--out FILE.md]

Held-out scenes of the training data, asked in block and full mode in three ways. *One pass*: the
scene's blocks are given to the engine, several scenes at once, so that blocks are encoded in the
same step as the questions about them, and replies are packed. *Cached*: the same once more.
*Server*: an agent of a real server is given the scene's world, lore and history over ZeroMQ, and
must make the very same blocks of them.

What is replied is fed to the training network in float32 as a whole: a reply is greedy if each
token is the likeliest one after those before it. Where one is not, but less than 0.001 below the
likeliest, rounding decided: a tie, which is counted.

The network is compared with keys and values in float32, and in bfloat16, as the runtime keeps them
where the processor multiplies those. Ends with status 1 if any reply in float32 is another one.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from game_agent.agents.memory import Memory
from game_agent.blocks.block import Block
from game_agent.client import Answer, Client
from game_agent.engine import Completion, Request
from game_agent.runtime import Runtime, bundled_folder
from game_agent.server import running
from game_agent.training.batches import Sample, collate, encode_scene
from game_agent.training.export import load_exported
from game_agent.training.scenes import Question, Scene, make_questions, make_scene
from game_agent.training.tokens import END, plain_copy

Mode = Literal["block", "full"]
MODES: tuple[Mode, ...] = ("block", "full")
SIZES = (2, 4, 8, 12, 16, 24, 32)
QUESTIONS = 4
GROUP = 5  # scenes that are asked at once
MAX_TOKENS = 64
TIE = 1e-3  # logits
WAYS = ("one pass", "cached", "server")
Ids = list[int]


@dataclass(frozen=True)
class Case:
    """A scene, questions on it, and both in tokens as training has them."""

    name: str
    scene: Scene
    questions: list[Question]
    sample: Sample


@dataclass(frozen=True)
class Verdict:
    """On replies to a scene's questions; ``ties`` are tokens, ``wrong`` says which are others."""

    tokens: int
    ties: int
    wrong: tuple[str, ...]


@dataclass
class Tally:
    """Verdicts added up. ``not_placed``: scenes whose blocks no agent makes."""

    scenes: int = 0
    not_placed: int = 0
    replies: int = 0
    tokens: int = 0
    ties: int = 0
    wrong: list[str] = field(default_factory=list)

    def add(self, verdict: Verdict, num_replies: int) -> None:
        self.scenes += 1
        self.replies += num_replies
        self.tokens += verdict.tokens
        self.ties += verdict.ties
        self.wrong += verdict.wrong


class Reference:
    """The network as it is trained, and which replies are greedy by it."""

    def __init__(self, folder: Path) -> None:
        self.network, tokenizer = load_exported(folder)
        self.network.eval()
        self.tokenizer = plain_copy(tokenizer)
        self._verdicts: dict[tuple[object, ...], Verdict] = {}

    def case(self, rng: random.Random, number: int) -> Case:
        """A scene of the test split: names that training never saw."""
        scene = make_scene(rng, rng.choice(SIZES), "test")
        questions = make_questions(rng, scene, QUESTIONS)
        sample = encode_scene(self.tokenizer, scene.blocks, questions)
        return Case(f"scene {number}", scene, questions, sample)

    def check(self, case: Case, replies: Sequence[Ids], mode: Mode) -> Verdict:
        """Of ``replies``, end token included, to all questions of ``case``."""
        asked = (case.name, mode, *map(tuple, replies))
        if asked not in self._verdicts:
            self._verdicts[asked] = self._check(case, replies, mode)
        return self._verdicts[asked]

    @torch.inference_mode()
    def logits(self, case: Case, replies: Sequence[Ids], mode: Mode) -> Tensor:
        """Before each token of each reply [tokens, vocab], one question after the other."""
        events = [event for event, _ in case.sample.questions]
        sample = replace(case.sample, questions=list(zip(events, replies, strict=True)))
        logits: Tensor = self.network(collate(random.Random(0), [sample], full=mode == "full"))
        return logits

    def _check(self, case: Case, replies: Sequence[Ids], mode: Mode) -> Verdict:
        logits = self.logits(case, replies, mode)
        drawn = torch.tensor([token for reply in replies for token in reply])
        owners = [i for i, reply in enumerate(replies) for _ in reply]
        missing = logits.amax(1) - logits.gather(1, drawn[:, None])[:, 0]
        others = {owner for owner, gap in zip(owners, missing.tolist(), strict=True) if gap >= TIE}
        return Verdict(
            len(missing),
            int(((missing > 0) & (missing < TIE)).sum()),
            tuple(
                f"{case.name}, {mode}, {case.questions[i].event!r}: {replies[i]}"
                for i in sorted(others)
            ),
        )


def ask_engine(runtime: Runtime, cases: Sequence[Case], mode: Mode) -> list[list[Completion]]:
    """Replies to all questions of ``cases`` at once, the scene's blocks being given."""
    encoder = runtime.engine.runner.encoder
    requests = []
    for case in cases:
        first, *others = case.scene.blocks
        ids = [encoder.block(first, first=True), *map(encoder.block, others)]
        assert [list(map(int, block)) for block in ids] == case.sample.blocks
        blocks = tuple(map(Block, ids))
        for question in case.questions:
            event = encoder.event(question.event)
            requests.append(Request(blocks, event, mode=mode, max_tokens=MAX_TOKENS))
    completions = iter(runtime.engine.run(requests))
    return [[next(completions) for _ in case.questions] for case in cases]


def with_end(ids: Sequence[int], finish_reason: str) -> Ids:
    """What was drawn: the end token as well, if it came to that."""
    return [*ids, END] if finish_reason == "stop" else list(ids)


def place(client: Client, case: Case) -> str | None:
    """Give an agent of the server the scene; its name, or None if it makes other blocks of it.

    What a character said before is not something a client can tell it, but a saved game can.
    """
    found = re.fullmatch(r"You are (.+?)\. (.+)", case.scene.blocks[0], re.DOTALL)
    if found is None:
        return None
    name, profile = found.groups()
    client.world_put(case.name, case.scene.state)
    client.agent_put(name, world=case.name, profile=profile)
    lore, memory = [], Memory()
    for text in case.scene.blocks[len(client.inspect(name)) :]:
        turn = re.fullmatch(rf"(.+?): (.+)\n{re.escape(name)}: (.+)", text, re.DOTALL)
        if turn is not None:
            memory.add_turn(*turn.groups())
        elif text.startswith("Event: "):
            memory.observe(text.removeprefix("Event: "))
        else:
            lore.append({"keys": [], "content": text, "constant": True})
    client.lore_put(lore, world=case.name)
    saved: dict[str, Any] = json.loads(client.save(case.name))
    saved["agents"][0]["memory"] = memory.to_value()
    client.load(json.dumps(saved).encode())
    is_the_same = [block["text"] for block in client.inspect(name)] == list(case.scene.blocks)
    return name if is_the_same else None


def ask_server(client: Client, agent: str, case: Case, mode: Mode) -> list[Answer]:
    """Answers to all questions of ``case``, under way at once, remembered by nobody."""
    streams = []
    for question in case.questions:
        speaker, text = question.event.split(": ", 1)
        streams.append(
            client.stream(
                agent, text, speaker=speaker, mode=mode, max_tokens=MAX_TOKENS, remember=False
            )
        )
    return [stream.result() for stream in streams]


class Comparison:
    """All ways of asking beside the reference, tallied."""

    def __init__(self, runtime: Runtime, client: Client, reference: Reference) -> None:
        self._runtime, self._client, self._reference = runtime, client, reference
        self.tallies = {(way, mode): Tally() for way in WAYS for mode in MODES}

    def compare(self, cases: Sequence[Case]) -> None:
        for mode in MODES:
            fresh = ask_engine(self._runtime, cases, mode)
            cached = ask_engine(self._runtime, cases, mode)
            assert any(c.usage.encoded_tokens for replies in fresh for c in replies)
            assert not any(c.usage.encoded_tokens for replies in cached for c in replies)
            for case, first, second in zip(cases, fresh, cached, strict=True):
                for way, replies in (("one pass", first), ("cached", second)):
                    drawn = [with_end(reply.tokens, reply.finish_reason) for reply in replies]
                    self._add(way, mode, case, drawn)
                self._compare_server(case, mode, first)

    def _compare_server(self, case: Case, mode: Mode, expected: Sequence[Completion]) -> None:
        agent = place(self._client, case)
        if agent is None:
            self.tallies["server", mode].not_placed += 1
        else:
            answers = ask_server(self._client, agent, case, mode)
            drawn = list(map(self._drawn, answers, expected))
            self._add("server", mode, case, drawn)
        self._client.world_delete(case.name)

    def _drawn(self, answer: Answer, expected: Completion) -> Ids:
        """Tokens of an answer, of which a client is told the text. A text can be written in more
        than one way; the engine's is taken if it is the same text."""
        if answer.text == expected.text:
            return with_end(expected.tokens, answer.finish_reason)
        return with_end(self._reference.tokenizer.encode(answer.text).ids, answer.finish_reason)

    def _add(self, way: str, mode: Mode, case: Case, drawn: Sequence[Ids]) -> None:
        self.tallies[way, mode].add(self._reference.check(case, drawn, mode), len(drawn))


def run(
    model: Path, num_scenes: int, seed: int = 1, kv_dtype: str = "float32"
) -> dict[tuple[str, Mode], Tally]:
    """Compare until ``num_scenes`` held-out scenes were asked in all ways."""
    reference, rng = Reference(model), random.Random(seed)
    with (
        Runtime.load(model, device="cpu", kv_dtype=kv_dtype) as runtime,
        running(runtime) as server,
        Client(server.endpoint, timeout_s=120) as client,
    ):
        comparison = Comparison(runtime, client, reference)
        number = 0
        while (done := comparison.tallies["server", "full"].scenes) < num_scenes:
            count = min(GROUP, num_scenes - done)
            comparison.compare([reference.case(rng, number + i) for i in range(count)])
            number += count
            print(f"  {number} scenes", file=sys.stderr)
        return comparison.tallies


def table(tallies: dict[tuple[str, Mode], Tally]) -> str:
    lines = [
        "| asked by | mode | scenes | not placed | replies | tokens | ties | other replies |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {way} | {mode} | {t.scenes} | {t.not_placed} | {t.replies} | {t.tokens:,} | {t.ties} "
        f"| {len(t.wrong)} |"
        for (way, mode), t in tallies.items()
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default=str(bundled_folder()), help="an exported network")
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--kv-dtypes", default="float32,bfloat16", help="of cached text")
    parser.add_argument("--out", default=None, help="write the table to this file as well")
    args = parser.parse_args()
    report = (
        "Replies of the runtime beside the greedy replies of the training network, both in "
        "float32, on held-out scenes; see `bench/equivalence.py`. A tie is a token whose logit is "
        f"less than {TIE} below the likeliest one's. *Not placed*: scenes whose blocks no agent "
        "makes for a question that is only said: those that offer actions, as of now. With keys "
        "and values rounded to bfloat16 replies may differ; those of float32 must not.\n"
    )
    wrong: list[str] = []
    for kv_dtype in args.kv_dtypes.split(","):
        tallies = run(Path(args.model), args.scenes, kv_dtype=kv_dtype)
        report += f"\n## Keys and values in {kv_dtype}\n\n{table(tallies)}"
        others = [line for tally in tallies.values() for line in tally.wrong]
        print(*others, sep="\n")
        wrong += others if kv_dtype == "float32" else []
    print(report)
    if args.out:
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        Path(args.out).write_text(f"# The network's answers\n\n{report}", encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
