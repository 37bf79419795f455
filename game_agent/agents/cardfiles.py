"""Files that hold a Character Card: JSON, PNG images, CHARX archives. They may be hostile."""

from __future__ import annotations

import base64
import binascii
import io
import json
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from game_agent.agents.cards import Card
from game_agent.agents.pointer import Json
from game_agent.errors import InvalidInput, TooLarge

MAX_FILE_BYTES = 128 * 2**20
"""Of a file, and of all that an archive unpacks to."""
MAX_CARD_BYTES = 16 * 2**20
MAX_ARCHIVE_FILES = 10_000

_PNG = b"\x89PNG\r\n\x1a\n"
_ZIP = b"PK\x03\x04"
_CARD_JSON = "card.json"
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
# Version 3 goes before version 2 where a file holds both.
_KEYWORDS = {b"ccv3": "chara_card_v3", b"chara": "chara_card_v2"}


def load_card(path: Path) -> Card:
    """The card in a file. Raises InvalidInput, which names the file."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error}") from error
    try:
        return read_card(data)
    except InvalidInput as error:
        raise type(error)(f"{path}: {error.message}", where=error.where) from error


def read_card(data: bytes) -> Card:
    """The card in the bytes of a JSON, PNG or CHARX file.

    Raises InvalidInput for what is none of these, is damaged or holds no card; TooLarge above a
    limit.
    """
    if len(data) > MAX_FILE_BYTES:
        raise TooLarge(f"a card's file has at most {MAX_FILE_BYTES} bytes")
    if data.startswith(_PNG):
        return _read_png(data)
    if data.startswith(_ZIP):
        return _read_charx(data)
    return Card(_parse(data, "the file"))


def to_png(card: Card, image: bytes | None = None) -> bytes:
    """The card in ``image``, in the PNG that it came in, or in one of a single pixel.

    A card that ``image`` held is replaced. Raises InvalidInput if ``image`` is no PNG.
    """
    image = image or card.image or _pixel()
    keyword = next(k for k, spec in _KEYWORDS.items() if spec == card.value["spec"])
    text = keyword + b"\0" + base64.b64encode(card.to_json())
    out = [_PNG]
    for kind, content in _chunks(image):
        if kind == b"IEND":
            out.append(_chunk(b"tEXt", text))
        if kind != b"tEXt" or content.partition(b"\0")[0] not in _KEYWORDS:
            out.append(_chunk(kind, content))
    return b"".join(out)


def to_charx(card: Card) -> bytes:
    """The card as a CHARX archive, with the assets that it came with."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {_CARD_JSON: card.to_json(), **card.assets}.items():
            archive.writestr(zipfile.ZipInfo(name, _ZIP_TIME), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _read_png(data: bytes) -> Card:
    found: dict[bytes, bytes] = {}
    for kind, content in _chunks(data):
        keyword, _, text = content.partition(b"\0")
        if kind == b"tEXt" and keyword in _KEYWORDS:
            found.setdefault(keyword, text)
    for keyword in _KEYWORDS:
        if keyword in found:
            return Card(_decode(found[keyword], keyword.decode()), image=data)
    raise InvalidInput("the image holds no Character Card (no tEXt chunk ccv3 or chara)")


def _decode(text: bytes, keyword: str) -> Mapping[str, Json]:
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"the {keyword} chunk of the image is no base64: {error}") from error
    return _parse(content, f"the {keyword} chunk of the image")


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(type, content) of a PNG's chunks up to IEND (PNG specification, section 5.3)."""
    if not data.startswith(_PNG):
        raise InvalidInput("the image is no PNG")
    offset, kind = len(_PNG), b""
    while kind != b"IEND":
        head = data[offset : offset + 8]
        if len(head) < 8:
            raise InvalidInput("the PNG ends too early")
        num_bytes, kind = struct.unpack(">I4s", head)
        end = offset + 8 + num_bytes
        content, checksum = data[offset + 8 : end], data[end : end + 4]
        if len(checksum) < 4:
            raise InvalidInput("the PNG ends too early")
        if struct.unpack(">I", checksum)[0] != zlib.crc32(kind + content):
            raise InvalidInput(f"the PNG is damaged: the checksum of a {kind!r} chunk is wrong")
        yield kind, content
        offset = end + 4


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I4s", len(content), kind) + content + struct.pack(">I", checksum)


def _pixel() -> bytes:
    """A PNG of one transparent pixel."""
    header = struct.pack(">IIBBBBB", 1, 1, 8, 6, 0, 0, 0)
    body = zlib.compress(bytes(5))
    chunks = ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    return _PNG + b"".join(_chunk(kind, content) for kind, content in chunks)


def _read_charx(data: bytes) -> Card:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            files = _unpack(archive)
    except (
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        NotImplementedError,
        RuntimeError,
        ValueError,
        OSError,
        EOFError,
    ) as error:
        raise InvalidInput(f"the CHARX archive cannot be read: {error}") from error
    if _CARD_JSON not in files:
        raise InvalidInput(f"the CHARX archive holds no {_CARD_JSON}")
    return Card(_parse(files.pop(_CARD_JSON), _CARD_JSON), assets=files)


def _unpack(archive: zipfile.ZipFile) -> dict[str, bytes]:
    infos = [info for info in archive.infolist() if not info.is_dir()]
    if len(infos) > MAX_ARCHIVE_FILES:
        raise TooLarge(f"a CHARX archive has at most {MAX_ARCHIVE_FILES} files")
    files: dict[str, bytes] = {}
    room = MAX_FILE_BYTES
    for info in infos:
        if info.flag_bits & 1:
            raise InvalidInput("the CHARX archive is encrypted")
        # What it says of its size may be a lie; what it unpacks to is counted.
        with archive.open(info) as file:
            files[info.filename] = file.read(room + 1)
        room -= len(files[info.filename])
        if room < 0:
            raise TooLarge(f"the CHARX archive unpacks to more than {MAX_FILE_BYTES} bytes")
    return files


def _parse(data: bytes, what: str) -> Mapping[str, Json]:
    if len(data) > MAX_CARD_BYTES:
        raise TooLarge(f"a card has at most {MAX_CARD_BYTES} bytes of JSON")
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{what} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidInput(f"{what} is no JSON object")
    return value
