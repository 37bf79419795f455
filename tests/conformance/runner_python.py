"""The runner of the Python client for game loops."""

from __future__ import annotations

import queue
import struct
import sys
import threading
from typing import Any

import msgpack

from game_agent.client import CurveKeys, FrameClient, Pending
from game_agent.client.calls import Call
from game_agent.errors import GameAgentError, ServerError

FRAME_S = 0.001
SILENCE_S = 0.5
Map = dict[str, Any]


def read_commands(commands: queue.Queue[Map | None]) -> None:
    pipe = sys.stdin.buffer
    while len(head := pipe.read(4)) == 4:
        commands.put(msgpack.unpackb(pipe.read(struct.unpack(">I", head)[0])))
    commands.put(None)


def say(event: Map) -> None:
    data = msgpack.packb(event)
    sys.stdout.buffer.write(struct.pack(">I", len(data)) + data)
    sys.stdout.buffer.flush()


def started(client: FrameClient, command: Map) -> dict[str, Pending[Any]]:
    """The requests of a command by name."""
    if "request" in command:
        call = Call(command["op"], command["fields"], dict)
        return {command["request"]: client.start(call)}
    tick = client.tick(**command["fields"], asks=[ask["fields"] for ask in command["asks"]])
    names = [ask["name"] for ask in command["asks"]]
    return {command["tick"]: tick.change, **dict(zip(names, tick.asks, strict=True))}


def reply_of(pending: Pending[Any]) -> Map:
    try:
        result = pending.result()
    except ServerError as error:
        told = {"where": error.where, "expected": error.expected, "message": error.message}
        return {"ev": "error", "code": error.code, **told}
    except GameAgentError as error:
        return {"ev": "lost", "message": error.message}
    if isinstance(result, dict):
        return {"ev": "ok", **result}
    return {"ev": "done", **vars(result)}


def main() -> None:
    commands: queue.Queue[Map | None] = queue.Queue()
    threading.Thread(target=read_commands, args=(commands,), daemon=True).start()
    open_requests: dict[str, Pending[Any]] = {}
    pieces: dict[str, list[str]] = {}
    endpoint, *z85 = sys.argv[1:]
    keys = CurveKeys(*(key.encode() for key in z85)) if z85 else None
    with FrameClient(endpoint, name="conformance", keys=keys, silence_s=SILENCE_S) as client:
        while True:
            try:
                command = commands.get(timeout=FRAME_S)
            except queue.Empty:
                pass
            else:
                if command is None:
                    return
                for name, pending in started(client, command).items():
                    open_requests[name], pieces[name] = pending, []
                    say({"name": name, "id": pending.id})
            client.poll()
            for name, pending in list(open_requests.items()):
                pieces[name] += pending.take_pieces()
                if pending.is_done:
                    del open_requests[name]
                    say({"name": name, "pieces": pieces[name], "reply": reply_of(pending)})


if __name__ == "__main__":
    main()
