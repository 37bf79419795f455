"""Character Cards: who they describe, and the files that hold them."""

from __future__ import annotations

import base64
import copy
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from game_agent.agents.cardfiles import load_card, read_card, to_charx, to_png
from game_agent.agents.cards import Card
from game_agent.errors import InvalidInput, TooLarge
from game_agent.runtime import Runtime

V2: dict[str, Any] = {
    "spec": "chara_card_v2",
    "spec_version": "2.0",
    "data": {
        "name": "Mira",
        "description": "{{char}} runs the inn.\n\n<USER> is her  guest.",
        "personality": "calm",
        "scenario": "",
        "first_mes": "Welcome, {{user}}!",
        "alternate_greetings": ["Hm? I am {{Char}}."],
        "mes_example": "<START>\n{{user}}: A bed?\n{{char}}: Four coins.\n<start>\n{{char}}: Ale?",
        "creator_notes": "Not for the prompt.",
        "system_prompt": "Stay in the inn. {{original}}",
        "post_history_instructions": "Be brief.",
        "tags": ["inn"],
        "creator": "nobody",
        "character_version": "1",
        "extensions": {"some/app": {"depth": [1, None, "ü"]}},
        "character_book": {
            "name": "book",
            "extensions": {"x": 1},
            "entries": [
                {
                    "keys": ["bell"],
                    "content": "{{char}} hid it from {{user}}.",
                    "extensions": {"kept": True},
                    "enabled": True,
                    "insertion_order": 3,
                }
            ],
        },
        "unknown_field": 5,
    },
}
V3: dict[str, Any] = {
    "spec": "chara_card_v3",
    "spec_version": "3.0",
    "data": {
        **V2["data"],
        "nickname": "Mi",
        "group_only_greetings": [],
        "assets": [{"type": "icon", "uri": "embeded://a.png", "name": "main", "ext": "png"}],
    },
}


def changed(**data: Any) -> dict[str, Any]:
    card = copy.deepcopy(V2)
    card["data"].update(data)
    return card


def test_who_the_card_describes() -> None:
    character = Card(V2).character("Speak plainly.", user="Ann")
    assert character.text == (
        "You are Mira. Mira runs the inn.\nAnn is her guest.\nPersonality: calm "
        "Stay in the inn. Speak plainly.\nBe brief."
    )
    assert character.examples == ("Ann: A bed?\nMira: Four coins.", "Mira: Ale?")
    assert character.fill("{{char}}, {{USER}}, <BOT>") == "Mira, Ann, Mira"
    assert Card(V2).greetings() == ("Welcome, Player!", "Hm? I am Mira.")
    assert "Not for the prompt" not in character.text


def test_instructions_stand_beside_those_of_the_card() -> None:
    card = Card(changed(system_prompt="Stay in the inn.", post_history_instructions=""))
    assert card.character("Speak plainly.").text.endswith("Stay in the inn.\nSpeak plainly.")
    assert card.character().instructions == "Stay in the inn."


def test_the_nickname_of_version_3_is_the_name() -> None:
    character = Card(V3).character()
    assert character.name == "Mi"
    assert "Mi runs the inn." in character.text


def test_a_card_with_nothing_but_a_name() -> None:
    card = Card({"spec": "chara_card_v2", "data": {"name": " Bo "}})
    assert card.character().text == "You are Bo."
    assert card.character().examples == ()
    assert card.lorebook is None
    assert card.greetings() == ()


@pytest.mark.parametrize("value", [V2, V3])
def test_every_kind_of_file_gives_the_card_back(value: dict[str, Any], tmp_path: Path) -> None:
    card = Card(value, assets={"assets/icon/a.png": b"\x89x"})
    assert read_card(card.to_json()).value == value
    assert read_card(b"\xef\xbb\xbf" + card.to_json()).value == value
    assert read_card(to_png(card)).value == value
    packed = read_card(to_charx(card))
    assert (packed.value, packed.assets) == (value, card.assets)
    assert to_charx(packed) == to_charx(card)
    path = tmp_path / "card.png"
    path.write_bytes(to_png(card))
    assert load_card(path).value == value


def test_a_png_keeps_its_image_and_holds_one_card() -> None:
    first = read_card(to_png(Card(V2)))
    second = to_png(Card(changed(name="Bo")), first.image)
    assert read_card(second).name == "Bo"
    assert second.count(b"chara\0") == 1
    assert [kind for kind, _ in chunks(second)] == [b"IHDR", b"IDAT", b"tEXt", b"IEND"]


def test_version_3_goes_before_version_2_in_one_image() -> None:
    parts = [chunk(b"tEXt", b"chara\0" + packed(V2)), chunk(b"tEXt", b"ccv3\0" + packed(V3))]
    assert read_card(png(*parts)).value == V3
    assert read_card(png(*reversed(parts))).value == V3


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({}, "/spec"),
        ({"spec": "chara_card_v4", "data": {"name": "x"}}, "/spec"),
        ({"name": "version 1", "description": ""}, "/spec"),
        ({"spec": "chara_card_v2"}, "/data"),
        ({"spec": "chara_card_v2", "data": []}, "/data"),
        (changed(name=" "), "/data/name"),
        (changed(name=None), "/data/name"),
        (changed(description=3), "/data/description"),
        (changed(alternate_greetings="x"), "/data/alternate_greetings"),
        (changed(character_book=[]), "/data/character_book"),
        (changed(character_book={"entries": [1]}), "/data/character_book/entries/0"),
        (changed(extensions={"x": float("nan")}), "/data/extensions/x"),
    ],
)
def test_what_is_no_card_is_refused(value: dict[str, Any], where: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Card(value)
    assert caught.value.where == where


def chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    offset = 8
    while offset < len(data):
        length = struct.unpack(">I", data[offset : offset + 4])[0]
        yield data[offset + 4 : offset + 8], data[offset + 8 : offset + 8 + length]
        offset += 12 + length


def png(*parts: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join((*parts, chunk(b"IEND", b"")))


def packed(value: object) -> bytes:
    return base64.b64encode(json.dumps(value).encode())


def archive(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as out:
        for name, content in files.items():
            out.writestr(name.replace("_", "."), content)
    return buffer.getvalue()


def encrypted() -> bytes:
    data = bytearray(archive(card_json=b"{}"))
    # The flag that says so, in the file's own header and in the directory's.
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[1]", "no JSON object"),
        (DEEP, "no JSON"),
        (png(), "holds no Character Card"),
        (png(chunk(b"tEXt", b"chara")), "no JSON"),
        (png(chunk(b"tEXt", b"chara\0!!")), "no base64"),
        (png(chunk(b"tEXt", b"chara\0" + base64.b64encode(DEEP))), "no JSON"),
        (png(chunk(b"tEXt", b"chara\0" + packed({}))), "no Character Card"),
        (png(chunk(b"tEXt", b"x"))[:-13], "ends too early"),
        (b"\x89PNG\r\n\x1a\n\xff\xff\xff\xfftEXtx", "ends too early"),
        (png(chunk(b"tEXt", b"x").replace(b"tEXt", b"tEXu")), "damaged"),
        (archive(other_json=b"{}"), "holds no card.json"),
        (archive(card_json=b"{"), "no JSON"),
        (archive(card_json=to_png(Card(V2))), "no JSON"),
        (archive(card_json=b"{}")[:-9], "cannot be read"),
        (encrypted(), "encrypted"),
        (b"PK\x03\x04", "cannot be read"),
    ],
)
def test_a_hostile_file_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read_card(data)


def test_what_unpacks_to_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("game_agent.agents.cardfiles.MAX_FILE_BYTES", 10_000)
    with pytest.raises(TooLarge, match="unpacks to more"):
        read_card(archive(card_json=b"{}", bomb=bytes(10**6)))
    with pytest.raises(TooLarge, match="at most 10000 bytes"):
        read_card(bytes(10_001))
    monkeypatch.setattr("game_agent.agents.cardfiles.MAX_CARD_BYTES", 10)
    with pytest.raises(TooLarge, match="bytes of JSON"):
        read_card(b'{"a": "long enough"}')
    monkeypatch.setattr("game_agent.agents.cardfiles.MAX_ARCHIVE_FILES", 1)
    with pytest.raises(TooLarge, match="at most 1 files"):
        read_card(archive(a=b"", b=b""))


@given(st.data())
def test_a_damaged_file_gives_the_card_or_an_error(data: st.DataObject) -> None:
    file = bytearray(data.draw(st.sampled_from([to_png(Card(V2)), to_charx(Card(V2))])))
    for place in data.draw(st.lists(st.integers(0, len(file) - 1), min_size=1, max_size=3)):
        file[place] = data.draw(st.integers(0, 255))
    try:
        card = read_card(bytes(file))
    except InvalidInput:
        return
    assert card.name


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="nothing.json"):
        load_card(tmp_path / "nothing.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(InvalidInput, match=r"bad.json: .*no Character Card"):
        load_card(tmp_path / "bad.json")


def test_a_card_becomes_an_agent(tiny_checkpoint: Path) -> None:
    with Runtime.load(tiny_checkpoint) as runtime:
        world = runtime.world("village", {"weather": "rain"})
        agent = runtime.agent("mira-1", world=world, card=V2)
        agent.observe("The door opens.")
        blocks = {b["source"]: b["text"] for b in agent.inspect("Where is the bell?")}
        assert list(blocks) == [
            "character",
            "world:",
            "lore:0",
            "example:0",
            "example:1",
            "memory:0",
            "event",
        ]
        assert blocks["lore:0"] == "Mira hid it from Player."
        assert blocks["example:1"] == "Mira: Ale?"
        assert agent.name == "mira-1"
        assert runtime.get_agent("mira-1") is agent
        reply = agent.say("player", "Hi", max_tokens=3)
        reply.text()
        assert "\nMira: " in str(agent.inspect()[-1]["text"])
        # Another card keeps memory; a card without a book keeps the lore that was there.
        runtime.agent("mira-1", world=world, card={"spec": "chara_card_v2", "data": {"name": "Bo"}})
        assert [b["source"] for b in agent.inspect("bell")][-3:] == [
            "memory:0",
            "memory:1",
            "event",
        ]
        assert "lore:0" in [b["source"] for b in agent.inspect("bell")]
        for wrong in ({"profile": "", "card": V2}, {}):
            with pytest.raises(InvalidInput, match="either a profile or a card"):
                runtime.agent("x", world=world, **wrong)  # type: ignore[arg-type]
        with pytest.raises(InvalidInput, match="memory_tokens"):
            runtime.agent("x", world=world, profile="", memory_tokens=-1)
