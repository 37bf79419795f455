"""CURVE keys: who may connect, and what nobody else can do."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
import zmq
from fakes import FakeRuntime
from serving import running

from game_agent.client import AsyncClient, Client, CurveKeys
from game_agent.clock import FakeClock
from game_agent.errors import InvalidInput, RequestTimeout, ServerError, Unauthorized
from game_agent.protocol import VERSION
from game_agent.server import Server, ServerSettings
from game_agent.server.rights import why_unreadable
from game_agent.server.security import AllowList, KeyRing, make_client_keys, make_server_keys
from game_agent.server.session import Peer
from game_agent.server.table import SessionTable

SHORT_S = 0.5
NOBODY = 65534


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Keys of a server and of the clients ``game`` and ``editor``."""
    make_server_keys(tmp_path)
    for name in ("game", "editor"):
        make_client_keys(tmp_path, name)
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    with running(FakeRuntime(is_instant=True), curve_keys=folder) as server:
        yield server


def keys(folder: Path, name: str = "game") -> CurveKeys:
    return CurveKeys.load(folder / "server.key", folder / "issued" / f"{name}.key_secret")


def await_refusal(server: Server, *reasons: str) -> None:
    deadline_s = time.monotonic() + 10
    while not any(server.refused[reason] for reason in reasons):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_an_allowed_key_may_connect(server: Server, folder: Path) -> None:
    with Client(server.endpoint, keys=keys(folder)) as client:
        assert client.ask("ann", "x").text == "ann heard x."
    assert not server.refused.total()


async def _ping(endpoint: str, own: CurveKeys) -> None:
    async with AsyncClient(endpoint, keys=own) as client:
        await client.ping()


def test_the_client_for_asyncio_has_keys_too(server: Server, folder: Path) -> None:
    asyncio.run(_ping(server.endpoint, keys(folder)))


def test_no_key_can_do_nothing_and_is_counted(server: Server) -> None:
    with Client(server.endpoint, timeout_s=SHORT_S) as client, pytest.raises(RequestTimeout):
        client.ping()
    # Which one depends on who hangs up first.
    await_refusal(server, "no_key", "broken_handshake")


def test_a_foreign_key_is_refused_and_counted(server: Server, folder: Path, tmp_path: Path) -> None:
    public, secret = zmq.curve_keypair()
    foreign = CurveKeys(keys(folder).server, public, secret)
    with (
        Client(server.endpoint, timeout_s=SHORT_S, keys=foreign) as client,
        pytest.raises(RequestTimeout),
    ):
        client.ping()
    await_refusal(server, "foreign_key")


def test_a_client_that_expects_another_server_says_nothing(server: Server, folder: Path) -> None:
    own = keys(folder)
    wrong = CurveKeys(zmq.curve_keypair()[0], own.public, own.secret)
    with (
        Client(server.endpoint, timeout_s=SHORT_S, keys=wrong) as client,
        pytest.raises(RequestTimeout),
    ):
        client.ping()
    # Which one depends on who hangs up first.
    await_refusal(server, "no_key", "broken_handshake")


def test_a_session_cannot_be_taken_with_another_key(server: Server, folder: Path) -> None:
    with (
        Client(server.endpoint, keys=keys(folder)) as victim,
        Client(server.endpoint, keys=keys(folder, "editor")) as thief,
    ):
        token = victim.hello()["session"]
        thief._core.session = token
        with pytest.raises(ServerError) as caught:
            thief.reconnect()
        assert (caught.value.code, caught.value.where) == ("unauthorized", "session")
        assert victim.reconnect()


def test_a_key_that_is_taken_away_is_shut_out_while_the_server_runs(
    server: Server, folder: Path
) -> None:
    with (
        Client(server.endpoint, keys=keys(folder)) as other,
        Client(server.endpoint, timeout_s=SHORT_S, keys=keys(folder, "editor")) as editor,
    ):
        other.hello()
        token = editor.hello()["session"]
        (folder / "clients" / "editor.key").unlink()
        deadline_s = time.monotonic() + 10
        while other.stats()["server"]["num_sessions"] > 1:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        with pytest.raises(RequestTimeout):
            editor.ping()
        await_refusal(server, "revoked_key")
        with Client(server.endpoint, timeout_s=SHORT_S, keys=keys(folder, "editor")) as again:
            again._core.session = token
            with pytest.raises(RequestTimeout):
                again.reconnect()
        await_refusal(server, "foreign_key")
        assert other.ask("ann", "x").text == "ann heard x."


def test_a_new_key_may_connect_at_once(server: Server, folder: Path) -> None:
    make_client_keys(folder, "late")
    with Client(server.endpoint, keys=keys(folder, "late")) as client:
        client.ping()


def test_a_key_file_that_cannot_be_read_allows_nobody_and_hurts_nobody(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    allowed = AllowList(KeyRing.load(folder))
    (folder / "clients" / "editor.key").write_text("half a ke")
    allowed.refresh()
    assert keys(folder).public.decode() in allowed
    assert keys(folder, "editor").public.decode() not in allowed
    assert "editor.key" in caplog.text


def dealer(context: zmq.Context[zmq.Socket[bytes]], own: CurveKeys) -> zmq.Socket[bytes]:
    """A client that calls itself ``me``."""
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.ROUTING_ID, b"me")
    socket.setsockopt(zmq.CURVE_SERVERKEY, own.server)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, own.public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, own.secret)
    return socket


def hello(context: zmq.Context[zmq.Socket[bytes]], endpoint: str, own: CurveKeys) -> str:
    """The session that a client gets. While another has its name, ZeroMQ does not let it in."""
    for _ in range(50):
        with dealer(context, own) as socket:
            socket.connect(endpoint)
            socket.send(msgpack.packb({"v": VERSION, "id": 1, "op": "hello"}))
            if socket.poll(300):
                token: str = msgpack.unpackb(socket.recv())["session"]
                return token
    raise AssertionError("the server does not answer")


def test_the_name_of_a_connection_gives_no_right_to_its_session(
    server: Server, folder: Path
) -> None:
    context = zmq.Context()
    token = hello(context, server.endpoint, keys(folder))
    assert hello(context, server.endpoint, keys(folder, "editor")) != token
    context.destroy(linger=0)


def test_sessions_belong_to_a_key() -> None:
    table = SessionTable(ServerSettings(), FakeClock(), new_token=iter("ab").__next__)
    first = table.of_peer(Peer(b"x", user="game"))
    other = table.of_peer(Peer(b"x", user="editor"))
    assert first is not other
    with pytest.raises(Unauthorized):
        table.resume("a", Peer(b"y", user="editor"))
    assert table.resume("a", Peer(b"y", user="game")) == (first, True)


def test_what_arrives_late_on_a_replaced_connection_belongs_to_its_session() -> None:
    table = SessionTable(ServerSettings(), FakeClock())
    first = table.of_peer(Peer(b"old"))
    assert table.resume(first.token, Peer(b"new")) == (first, True)
    assert table.of_peer(Peer(b"old")) is first
    assert first.peer == Peer(b"new")
    for number in range(20):
        assert table.resume(first.token, Peer(b"%d" % number)) == (first, True)
    assert table.of_peer(Peer(b"18")) is first
    assert table.resume(first.token, Peer(b"18")) == (first, True), "a name may come back"
    assert first.peer == Peer(b"18")
    table.close(first)
    assert table.of_peer(Peer(b"17")) is not first


def test_other_computers_need_keys(folder: Path) -> None:
    with pytest.raises(InvalidInput, match="keygen"):
        ServerSettings(bind="tcp://0.0.0.0:5761")
    assert ServerSettings(bind="tcp://0.0.0.0:5761", curve_keys=folder).curve_keys == folder


def test_keys_are_never_overwritten(folder: Path) -> None:
    before = KeyRing.load(folder)
    with pytest.raises(InvalidInput, match="not overwritten"):
        make_server_keys(folder)
    with pytest.raises(InvalidInput, match="already"):
        make_client_keys(folder, "game")
    assert KeyRing.load(folder) == before
    assert set(before.clients.values()) == {"game", "editor"}


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".x", "x" * 65])
def test_names_of_clients_are_checked(folder: Path, name: str) -> None:
    with pytest.raises(InvalidInput):
        make_client_keys(folder, name)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permissions")
def test_secret_keys_are_their_owners_alone(folder: Path) -> None:
    for file in folder.rglob("*.key_secret"):
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0


def test_wrong_key_files_are_named(folder: Path, tmp_path: Path) -> None:
    (folder / "clients" / "bad.key").write_text("nothing")
    with pytest.raises(InvalidInput, match=r"bad\.key"):
        KeyRing.load(folder)
    with pytest.raises(InvalidInput, match="keygen"):
        KeyRing.load(tmp_path / "none")
    with pytest.raises(InvalidInput, match="no secret key"):
        CurveKeys.load(folder / "server.key", folder / "server.key")
    with pytest.raises(InvalidInput, match="no key file"):
        CurveKeys.load(folder / "none", folder / "server.key_secret")


@pytest.fixture
def plain_user() -> Iterator[int]:
    """Lasts until the test ends; root may read everything, and so would see no error."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield os.geteuid()
    finally:
        os.seteuid(user)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A key folder that everybody may enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_server_keys(folder)
        make_client_keys(folder, "game")
        for each in (folder, folder / "clients"):
            each.chmod(0o755)
        (folder / "clients" / "game.key").chmod(0o644)
        (folder / "server.key_secret").chmod(0o644)
        yield folder


@pytest.mark.skipif(sys.platform == "win32", reason="rights are no modes there")
@pytest.mark.parametrize(
    ("name", "mode"),
    [("server.key_secret", 0o000), ("clients", 0o600), ("clients/game.key", 0o200), ("", 0o600)],
)
def test_a_file_that_may_not_be_read_is_named_with_its_mode(
    open_folder: Path, name: str, mode: int, request: pytest.FixtureRequest
) -> None:
    blocked = open_folder / name
    owner = os.geteuid()
    blocked.chmod(mode)
    user = request.getfixturevalue("plain_user")
    with pytest.raises(InvalidInput) as caught:
        KeyRing.load(open_folder)
    text = caught.value.message
    assert f"{blocked} has mode {mode:04o} and belongs to user {owner}" in text
    assert f"runs as user {user}" in text
    assert ("chmod u+r" if owner == user else f"as user {owner}") in text
    if owner != user:
        assert f"chown -R {user} " in text


@pytest.mark.skipif(sys.platform == "win32", reason="rights are no modes there")
def test_why_a_file_cannot_be_read(open_folder: Path, plain_user: int) -> None:
    assert why_unreadable(open_folder / "server.key_secret") is None
    assert why_unreadable(open_folder / "clients") is None
    assert why_unreadable(open_folder / "nowhere" / "at all") is None


def test_secrets_are_not_shown(folder: Path) -> None:
    own = keys(folder)
    assert own.secret.decode() not in repr(own)
    ring = KeyRing.load(folder)
    assert ring.secret.decode() not in repr(ring)
