"""docs/messages.md shows what goes over the wire: every request, and replies of the same form."""

from __future__ import annotations

import re
from typing import Any

import msgpack
import zmq
from conformance.serving import conformance_runtime, serving
from message_page import PAGE, Example, page, read_examples
from serving import PATIENCE_S

from game_agent.protocol.codec import decode, encode
from game_agent.protocol.limits import Limits
from game_agent.protocol.messages import REQUESTS
from game_agent.protocol.replies import TERMINAL

EXAMPLES = read_examples()


def test_the_page_is_made_of_the_table() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(EXAMPLES), "run python tests/message_page.py"


def test_every_operation_and_every_kind_of_reply_has_an_example() -> None:
    shown = {example.request["op"] for example in EXAMPLES}
    assert shown == set(REQUESTS)
    assert {reply["ev"] for each in EXAMPLES for reply in each.replies} == TERMINAL | {
        "token",
        "sentence",
    }


def test_the_bytes_on_the_page_are_the_messages() -> None:
    blocks = re.findall(r"```\n(?:->|<-) .*\n([0-9a-f\n]+)```", PAGE.read_text(encoding="utf-8"))
    sent = [message for each in EXAMPLES for message in (each.request, *each.replies)]
    assert len(blocks) == len(sent)
    for block, message in zip(blocks, sent, strict=True):
        decoded = decode(bytes.fromhex(block.replace("\n", "")), Limits())
        assert (decoded.fields, decoded.error) == (message, None)


def test_a_server_answers_in_the_form_that_the_page_shows() -> None:
    context = zmq.Context()
    try:
        with conformance_runtime() as runtime, serving(runtime) as endpoint:
            socket = context.socket(zmq.DEALER)
            socket.setsockopt(zmq.RCVTIMEO, round(PATIENCE_S * 1000))
            socket.connect(endpoint)
            saved = b""
            for example in EXAMPLES:
                request = dict(example.request)
                if "data" in request:
                    request["data"] = saved
                socket.send(encode(request))
                for reply in replies_to(socket, example):
                    saved = reply.get("data", saved)
                    check_form(reply, example)
    finally:
        context.destroy(linger=0)


def replies_to(socket: zmq.Socket[bytes], example: Example) -> list[dict[str, Any]]:
    """All that a server answers, until every id has its last reply."""
    waiting = {reply["id"] for reply in example.replies}
    replies = []
    while waiting:
        replies.append(msgpack.unpackb(socket.recv()))
        if replies[-1]["ev"] in TERMINAL:
            waiting.remove(replies[-1]["id"])
    return replies


def check_form(reply: dict[str, Any], example: Example) -> None:
    (shown,) = [
        each for each in example.replies if (each["id"], each["ev"]) == (reply["id"], reply["ev"])
    ]
    if not example.has_more:
        assert reply.keys() == shown.keys(), example.title
    assert reply.get("code") == shown.get("code"), example.title
    assert reply.get("where") == shown.get("where"), example.title
    compare(reply, shown, example.title)


def compare(actual: Any, shown: Any, where: str) -> None:
    """Fields that are shown exist and have values of the kind that is shown."""
    if isinstance(shown, dict):
        assert isinstance(actual, dict), where
        assert shown.keys() <= actual.keys(), where
        for name, value in shown.items():
            compare(actual[name], value, f"{where}: {name}")
    elif isinstance(shown, list):
        assert isinstance(actual, list), where
        assert bool(actual) == bool(shown), where
        for each in actual[:1]:
            compare(each, shown[0], where)
    else:
        assert type(actual) is type(shown), (where, actual, shown)
