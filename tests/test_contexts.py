"""Texts of benchmarks as blocks, and continuations scored as the Hugging Face model would."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from checkpoints import byte_tokenizer, oracle, oracle_logits
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors

from game_agent.engine import Engine
from game_agent.errors import InvalidInput
from game_agent.evaluation.contexts import Context, Contexts, Ids, chain
from game_agent.evaluation.continuations import Continuations, Goal
from game_agent.evaluation.ways import WAYS
from game_agent.model.runner import load_runner
from game_agent.text.chat_template import ChatTemplate, Message

TOKENIZER = byte_tokenizer()
FEW_SHOT = "Q: 1?\nA: one\n\nQ: 2?\nA: two\n\nQ: 3?\nA:"
CHATML = ChatTemplate(
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def text_of(ids: Ids) -> str:
    return TOKENIZER.decode(list(ids))


def contexts(is_cut: bool = True, max_blocks: int = 14) -> Contexts:
    return Contexts(TOKENIZER, CHATML, is_cut=is_cut, max_blocks=max_blocks)


def pieces(context: Context) -> list[str]:
    return [text_of(ids) for ids in (*context.blocks, context.event)]


def test_few_shot_examples_are_blocks() -> None:
    context, following = contexts().pair(FEW_SHOT, " three")
    assert pieces(context) == ["Q: 1?\nA: one\n\n", "Q: 2?\nA: two\n\n", "Q: 3?\nA:"]
    assert text_of(following) == " three"
    assert len(contexts(max_blocks=1).context(FEW_SHOT).blocks) == 1
    whole, _ = contexts(is_cut=False).pair(FEW_SHOT * 9, " three")
    assert "".join(pieces(whole)) == FEW_SHOT * 9
    assert {len(block) for block in whole.blocks} == {64}


@given(st.text(st.sampled_from("ab \n"), min_size=1), st.text("ab ", min_size=1), st.booleans())
def test_no_letter_is_lost(text: str, continuation: str, is_cut: bool) -> None:
    context, following = contexts(is_cut).pair(text, continuation)
    assert "".join(pieces(context)) + text_of(following) == text + continuation
    assert context.event
    # White space at the end belongs to what continues it.
    assert not text.strip() or not text_of(context.event)[-1].isspace()


def test_messages_are_blocks() -> None:
    messages: list[Message] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "One.\n\nTwo?"},
    ]
    cutter = contexts()
    text = cutter.render(messages, is_question=True)
    assert "".join(pieces(cutter.context(text))) == text
    # The last question sees everything; it is not cut.
    assert [piece.split("<|im_end|>")[0] for piece in pieces(cutter.context(text))] == [
        "<|im_start|>system\nBe brief.",
        "<|im_start|>user\nHi?",
        "<|im_start|>assistant\nYes.",
        "<|im_start|>user\nOne.\n\nTwo?",
    ]
    context, following = cutter.pair(text, "No.")
    assert len(context.blocks) == 3
    assert text_of(following) == "\nNo."


def test_a_lone_question_is_cut() -> None:
    cutter = contexts()
    messages: list[Message] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One.\n\nTwo.\n\nThree?"},
    ]
    text = cutter.render(messages, is_question=True)
    assert pieces(cutter.context(text)) == [
        "<|im_start|>system\nBe brief.<|im_end|>\n",
        "<|im_start|>user\nOne.\n\n",
        "Two.\n\n",
        "Three?<|im_end|>\n<|im_start|>assistant\n",
    ]
    begun = [*messages, Message(role="assistant", content="Well,")]
    assert cutter.render(begun, is_question=False).endswith("assistant\nWell,")
    with pytest.raises(InvalidInput, match="no chat template"):
        Contexts(TOKENIZER, is_cut=True).render(messages, is_question=True)


def test_a_text_begins_as_the_tokenizer_has_it() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|block|> $A <|end|>", special_tokens=[("<|block|>", 1), ("<|end|>", 4)]
    )
    cutter = Contexts(tokenizer, is_cut=True)
    context, following = cutter.pair(FEW_SHOT, " x")
    assert context.blocks[0][0] == 1
    assert sum(ids.count(1) for ids in (*context.blocks, context.event, following)) == 1
    assert 4 not in (*context.event, *following)
    assert cutter.context("A").event[0] == 1
    assert cutter.context("<|block|>A").event.count(1) == 1  # a template wrote it already
    assert Contexts(tokenizer, is_cut=True, add_bos=False).context("A").event[0] != 1


def test_what_does_not_fit_loses_its_beginning() -> None:
    context = Context(((1, 2, 3), (4, 5)), (6, 7, 8))
    for room in range(1, 11):
        left = context.last(room)
        assert [*(t for b in left.blocks for t in b), *left.event] == list(range(1, 9))[-room:]
        assert all(left.blocks)
    assert context.last(8) == context


@pytest.fixture
def small(tiny_checkpoint: Path) -> Iterator[Engine]:
    engine = Engine(load_runner(tiny_checkpoint, kv_memory_bytes=2**24))
    yield engine
    engine.close()


@pytest.mark.parametrize("way", ["block", "full"])
def test_likelihoods_are_the_models(small: Engine, tiny_checkpoint: Path, way: str) -> None:
    model = oracle(tiny_checkpoint)
    cutter = contexts(way == "block")
    pairs = [
        cutter.pair(FEW_SHOT * n, text) for n in (1, 3) for text in (" three", "x", " or so\n")
    ]
    found = Continuations(small, WAYS[way]).likelihoods(pairs)
    for (context, following), likelihood in zip(pairs, found, strict=True):
        event = (*context.event, *following[:-1])
        logits = oracle_logits(model, context.blocks, event, way)[-len(following) :]
        expected = logits.log_softmax(-1)[range(len(following)), list(following)].sum()
        assert likelihood.log_prob == pytest.approx(float(expected), abs=1e-3)
        assert likelihood.is_greedy == (tuple(logits.argmax(-1).tolist()) == following)


def test_what_is_written_is_greedy(small: Engine) -> None:
    context = contexts().context(FEW_SHOT)
    ways = Continuations(small, WAYS["block"])
    (reply,) = ways.replies([(context, Goal(5))])
    ids = small.runner.tokenizer.encode(reply)
    (likelihood,) = ways.likelihoods([(context, tuple(ids))])
    assert likelihood.is_greedy or "\ufffd" in reply
    (cut,) = ways.replies([(context, Goal(5, stop=(reply[1],)))])
    assert cut == reply[: reply.index(reply[1])]


def test_a_long_text_is_scored_in_parts(small: Engine, tiny_checkpoint: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = tuple(torch.randint(5, 300, (1200,), generator=generator).tolist())
    (found,) = Continuations(small, WAYS["block"]).rolling([(ids[:3], ids[3:])])
    logits = oracle_logits(oracle(tiny_checkpoint), [], ids[:-1], "full")[2:]
    expected = logits.log_softmax(-1)[range(len(ids) - 3), list(ids[3:])].double().sum()
    assert found == pytest.approx(float(expected), rel=1e-5)
    assert "".join(map(str, chain(ids).event)) == "".join(map(str, ids[1152:]))
