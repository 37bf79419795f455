"""Prompt formats: blocks one after another are what the chat template writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from checkpoints import byte_tokenizer
from families import FAMILIES, Family
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from game_agent.errors import ModelError
from game_agent.model.runner import load_runner
from game_agent.text.chat_template import ChatTemplate, derive
from game_agent.text.choosing import RECORD, choose_format, record_format
from game_agent.text.formats import (
    BLOCK_FT,
    CHATML,
    FORMATS,
    PLAIN,
    TEXT,
    TULU3_BLOCK,
    PromptEncoder,
    PromptFormat,
    Special,
)
from game_agent.text.tokenizer import Tokenizer

HAS_SYSTEM = {"chatml": True, "llama-3": True, "mistral": False, "unigram": True}
words = st.text("abe .:;[]<>|/", min_size=1, max_size=20).map(" ".join).map(str.strip)
lines = st.lists(words.filter(bool), min_size=1, max_size=3).map("\n".join)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {name: family.save(root / name) for name, family in FAMILIES.items()}


def template_of(family: Family, folder: Path) -> ChatTemplate:
    template = ChatTemplate.load(folder)
    assert template is not None
    assert template.source == family.template
    return template


def talk(made: PromptFormat, blocks: list[str], event: str, *, has_system: bool) -> list[dict]:
    """The messages whose contents the blocks are, line ends as the format puts them."""
    ends_lines = made.block[1] == ("\n",)
    text = "\n".join(blocks) + ("\n" if ends_lines else "")
    if not has_system:
        return [{"role": "user", "content": text + event}]
    return [{"role": "system", "content": text}, {"role": "user", "content": event}]


@pytest.mark.parametrize("name", FAMILIES)
@settings(deadline=None, max_examples=25)
@given(blocks=st.lists(lines, min_size=1, max_size=4), event=words.filter(bool))
def test_blocks_are_the_templates_text(
    folders: dict[str, Path], name: str, blocks: list[str], event: str
) -> None:
    family = FAMILIES[name]
    template = template_of(family, folders[name])
    made = derive(template, family.tokenizer)
    messages = talk(made, blocks, event, has_system=HAS_SYSTEM[name])
    assert made.text(blocks, event) == template.render(messages)


@pytest.mark.parametrize("name", FAMILIES)
def test_one_block_and_an_event_are_the_templates_tokens(
    folders: dict[str, Path], name: str
) -> None:
    """Where no seam lies between two texts, the tokens are those of the text as a whole."""
    family = FAMILIES[name]
    template = template_of(family, folders[name])
    encoder = PromptEncoder(family.tokenizer, derive(template, family.tokenizer))
    block, event = "You are Mira.\nBe brief.", "Kay: Ale?"
    ours = [*encoder.block(block, first=True).tolist(), *encoder.event(event).tolist()]
    text = encoder.format.text([block], event)
    whole = family.backend.encode(text, add_special_tokens=False).ids
    if HAS_SYSTEM[name] and encoder.format.marks == ():
        assert ours == whole
    specials = {family.backend.token_to_id(s) for s in family.specials}
    assert [t for t in ours if t in specials] == [t for t in whole if t in specials]


@pytest.mark.parametrize(
    ("name", "stop"),
    [
        ("chatml", ("<|im_end|>",)),
        ("llama-3", ("<|eot_id|>",)),
        ("mistral", ("</s>",)),
        ("unigram", ("</s>",)),
    ],
)
def test_a_reply_ends_where_the_template_ends_it(
    folders: dict[str, Path], name: str, stop: tuple[str, ...]
) -> None:
    family = FAMILIES[name]
    assert derive(template_of(family, folders[name]), family.tokenizer).stop == stop


def test_what_qwens_template_says_is_chatml(folders: dict[str, Path]) -> None:
    made = choose_format(folders["chatml"], FAMILIES["chatml"].tokenizer)
    assert (made.first, made.block) == (CHATML.first, CHATML.block)
    before, after = CHATML.event
    thought = (Special("<think>"), "\n\n", Special("</think>"), "\n\n")
    assert made.event == (before, (*after, *thought))
    assert made.stop == CHATML.stop


def test_a_date_is_not_todays(folders: dict[str, Path]) -> None:
    """Block 0 must be the same block tomorrow."""
    made = choose_format(folders["llama-3"], FAMILIES["llama-3"].tokenizer)
    assert "Today Date: 26 Jul 2024\n\n" in made.text(["A."], "B?")
    assert made.text(["A.", "B."], "C?").count("A.\nB.<|eot_id|>") == 1


def test_the_known_formats_are_their_models_own(folders: dict[str, Path]) -> None:
    assert TULU3_BLOCK.text(["Answer.", "Title: A\nText."], "Question: B?") == (
        "<|user|>\nAnswer.\n\n- Title: A\nText.\n\n\nQuestion: B?\n<|assistant|>\n"
    )
    assert BLOCK_FT.text(["A."], "B?") == "[Block-Attention]" + TULU3_BLOCK.text(["A."], "B?")
    llama = FORMATS["llama-3"].text(["A.", "B."], "C?")
    template = template_of(FAMILIES["llama-3"], folders["llama-3"])
    dates = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
    messages = [{"role": "system", "content": "A.\nB."}, {"role": "user", "content": "C?"}]
    assert llama == template.render(messages).replace(dates, "")


def test_a_prefix_stands_before_block_0_alone(folders: dict[str, Path]) -> None:
    made = choose_format(
        folders["unigram"], FAMILIES["unigram"].tokenizer, "tulu3-block", "[Block-Attention]"
    )
    encoder = PromptEncoder(FAMILIES["unigram"].tokenizer, made)
    assert made.text(["A.", "B."], "C?") == BLOCK_FT.text(["A.", "B."], "C?")
    plain = PromptEncoder(encoder.tokenizer, TULU3_BLOCK)
    assert encoder.block("B.").tolist() == plain.block("B.").tolist()
    assert encoder.block("A.", first=True).tolist() != plain.block("A.", first=True).tolist()
    assert made.with_prefix("") is made


def test_a_folder_records_what_it_was_fine_tuned_in(tmp_path: Path) -> None:
    folder, tokenizer = FAMILIES["chatml"].save(tmp_path), FAMILIES["chatml"].tokenizer
    record_format(folder, "tulu3-block", "Play. ")
    tulu = TULU3_BLOCK.text(["A."], "B?")

    def text(*setting: str) -> str:
        return choose_format(folder, tokenizer, *setting).text(["A."], "B?")

    assert text() == text("tulu3-block") == f"Play. {tulu}"
    assert text("tulu3-block", "Sing. ") == f"Sing. {tulu}"
    assert text("chatml") == CHATML.text(["A."], "B?")
    record_format(folder, "template", "")
    assert choose_format(folder, tokenizer).name == "template"
    for broken in ("[", "[]", '{"prompt_format": 1}', '{"prompt_prefix": null}'):
        (folder / RECORD).write_text(broken, "utf-8")
        with pytest.raises(ModelError, match=r"game_agent\.json"):
            choose_format(folder, tokenizer)


def test_the_format_follows_the_tokenizer(tmp_path: Path, folders: dict[str, Path]) -> None:
    tokenizer = Tokenizer(byte_tokenizer().to_str())
    assert choose_format(tmp_path, tokenizer) is PLAIN
    spec = json.loads(byte_tokenizer().to_str())
    spec["added_tokens"] = []
    assert choose_format(tmp_path, Tokenizer(json.dumps(spec))) is TEXT
    assert choose_format(tmp_path, FAMILIES["chatml"].tokenizer) is CHATML
    assert choose_format(folders["chatml"], FAMILIES["chatml"].tokenizer).name == "template"
    with pytest.raises(ModelError, match="im_end"):
        choose_format(tmp_path, tokenizer, CHATML.name)
    with pytest.raises(ModelError, match="there are plain"):
        choose_format(tmp_path, tokenizer, "nonsense")
    with pytest.raises(ModelError, match="has no chat template"):
        choose_format(tmp_path, tokenizer, "template")


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("{{ messages[-1].content }}{{ messages[-1].content }}", "leaves messages out"),
        ("fixed", "leaves messages out"),
        ("{{ raise_exception('no') }}", "cannot be rendered: no"),
        ("{{ broken", "cannot be rendered"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "leaves messages out"),
        (
            "{% for m in messages %}{{ m.content | replace('rooms', 'beds') }}{% endfor %}",
            "changes the texts",
        ),
    ],
)
def test_a_template_for_other_uses_is_refused(
    tmp_path: Path, source: str, complaint: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = {"chat_template": [{"name": "default", "template": source}], "eos_token": "<|im_end|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer = FAMILIES["chatml"].tokenizer
    with pytest.raises(ModelError, match=complaint):
        choose_format(tmp_path, tokenizer, "template")
    assert choose_format(tmp_path, tokenizer) is CHATML
    assert complaint in caplog.text


def test_a_damaged_configuration_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("[", encoding="utf-8")
    with pytest.raises(ModelError, match="tokenizer_config.json cannot be read"):
        ChatTemplate.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    assert ChatTemplate.load(tmp_path) is None


def test_templates_cannot_reach_the_computer() -> None:
    source = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(ModelError, match="unsafe"):
        ChatTemplate(source).render([{"role": "user", "content": "Hi"}])
    # What keeps it so is the library's sandbox.
    assert render_jinja_template([[]], chat_template="{{ 1 }}")[0] == ["1"]


def test_a_runner_takes_the_setting(tiny_checkpoint: Path) -> None:
    runner = load_runner(
        tiny_checkpoint,
        kv_memory_bytes=2**20,
        device="cpu",
        prompt_format="tulu3-block",
        prompt_prefix="Play. ",
    )
    ids = runner.encoder.block("You are Mira.", first=True).tolist()
    assert runner.tokenizer.decode(ids) == "Play. <|user|>\nYou are Mira.\n\n"
