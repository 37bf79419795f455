"""Nothing that a player or a world says becomes a special token, however it is spelled or split."""

from __future__ import annotations

from collections import Counter

import pytest
from families import FAMILIES, Family
from hypothesis import given, settings
from hypothesis import strategies as st

from game_agent.agents.character import Character
from game_agent.agents.limits import MAX_NAME_CHARS
from game_agent.agents.memory import Turn
from game_agent.agents.partition import partition
from game_agent.agents.pointer import Json
from game_agent.agents.remembered import event_text, turn_text
from game_agent.text.chat_template import ChatTemplate, derive
from game_agent.text.formats import BLOCK_FT, FORMATS, TULU3_BLOCK, PromptEncoder

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
ENCODERS = {
    name: PromptEncoder(
        family.tokenizer, derive(ChatTemplate(family.template, TOKENS), family.tokenizer)
    )
    for name, family in FAMILIES.items()
}
WIDE = str.maketrans({chr(c): chr(c + 0xFEE0) for c in range(0x21, 0x7F)})


def hostile(family: Family) -> st.SearchStrategy[str]:
    """Texts of special tokens, of pieces of them, and of what a tokenizer might read as them."""
    names = [*family.specials, "<0x0A>", "<|user|>", "<|assistant|>", "[INST]", "[/INST]"]
    pieces = [
        piece
        for name in names
        for piece in (name, name[:3], name[3:], name.translate(WIDE), name.replace("<", "<" + name))
    ]
    return st.lists(st.sampled_from([*pieces, " ", "\n", "a", "▁", "é"]), max_size=6).map("".join)


def states(text: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Json]]:
    def containers(inner: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
        return st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4)

    values = st.recursive(text | st.booleans() | st.integers(0, 9), containers, max_leaves=12)
    return st.dictionaries(text, values, min_size=1, max_size=4)


def specials(family: Family, ids: list[int]) -> Counter[int]:
    reserved = {family.backend.token_to_id(name) for name in family.specials if name != "<unk>"}
    return Counter(token for token in ids if token in reserved)


def roles(encoder: PromptEncoder, ids: list[int]) -> Counter[str]:
    """What a format writes in letters for a role, in the text that the model reads."""
    text = encoder.tokenizer.backend.decode(ids, skip_special_tokens=False)
    return Counter({mark: text.count(mark) for mark in encoder.format.marks})


def check(encoder: PromptEncoder, family: Family, text: str) -> None:
    """A block, a first block and an event of ``text`` hold what those of an empty text do."""
    for encode in (
        encoder.block,
        encoder.event,
        lambda t: encoder.block(t, first=True),
    ):
        empty, full = encode("").tolist(), encode(text).tolist()
        assert specials(family, full) == specials(family, empty)
        assert roles(encoder, full) == roles(encoder, empty)


@pytest.mark.parametrize("name", FAMILIES)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_special_tokens_in_a_world_are_inert(name: str, data: st.DataObject) -> None:
    family, encoder = FAMILIES[name], ENCODERS[name]
    for part in partition(data.draw(states(hostile(family)))).parts:
        check(encoder, family, part.text)


@pytest.mark.parametrize("name", FAMILIES)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_special_tokens_in_speech_are_inert(name: str, data: st.DataObject) -> None:
    family, encoder = FAMILIES[name], ENCODERS[name]
    one, two, three = (data.draw(hostile(family)) for _ in range(3))
    check(encoder, family, event_text(one, two))
    turn = Turn("said", one, two, three, None, 0)
    check(encoder, family, turn_text(turn, f"Mira {three}"))
    someone = f"Mira {one}"[:MAX_NAME_CHARS]
    check(encoder, family, Character(someone, {two: three}, two).text)


@pytest.mark.parametrize("prompt_format", [TULU3_BLOCK, BLOCK_FT, FORMATS["text"]])
@pytest.mark.parametrize("name", FAMILIES)
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_roles_in_letters_cannot_be_said(
    name: str, prompt_format: object, data: st.DataObject
) -> None:
    family = FAMILIES[name]
    encoder = PromptEncoder(family.tokenizer, prompt_format)  # type: ignore[arg-type]
    check(encoder, family, data.draw(hostile(family)))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_special_token_alone(name: str) -> None:
    family = FAMILIES[name]
    reserved = {family.backend.token_to_id(s) for s in family.specials if s != "<unk>"}
    for special in family.specials:
        for text in (special, f"a{special}b", special * 3, f" {special} ", special.translate(WIDE)):
            assert not reserved & set(family.tokenizer.encode(text)), text


def test_the_vocabularies_have_the_holes_that_are_closed() -> None:
    """Without the guard, a word of the vocabulary is the special token of that name."""
    for name, word in (("unigram", "</s>"), ("llama-3", "<|eot_id|>")):
        family = FAMILIES[name]
        plain = family.tokenizer._plain
        assert family.backend.token_to_id(word) in plain.encode(word).ids
        assert family.tokenizer.decode(family.tokenizer.encode(word)).replace(" ", "") == word


def test_the_name_of_a_byte_is_not_the_byte() -> None:
    family = FAMILIES["unigram"]
    newline = family.backend.token_to_id("<0x0A>")
    assert newline in family.tokenizer._plain.encode("<0x0A>").ids
    assert newline not in family.tokenizer.encode("You<0x0A>Mira")
    # A letter that the vocabulary lacks is still written in bytes.
    assert family.tokenizer.decode(family.tokenizer.encode("You é")) == "You é"
    assert family.tokenizer.decode(family.tokenizer.encode("日本 <0x0A>")) == "日本 < 0x0A>"


def test_a_space_stands_in_a_role_that_is_only_letters() -> None:
    encoder = PromptEncoder(FAMILIES["unigram"].tokenizer, TULU3_BLOCK)
    text = encoder.tokenizer.decode(encoder.block("a <|user|> ＜|user|＞ b").tolist())
    assert text == "- a < |user|> < |user|> b\n"
    assert TULU3_BLOCK.marks == ("<|assistant|>", "<|user|>")
