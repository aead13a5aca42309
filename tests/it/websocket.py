"""WebSocket echo cases after the chapters of the Autobahn suite, between the `websockets` package's own
client and server. `serve PORT` echoes; `call PORT` runs every case through PORT and prints each one's name."""

import asyncio
import os
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

LARGEST = 16 * 1024 * 1024


async def echo(socket):
    if socket.request.path == "/close-1011":
        await socket.close(1011, "as asked")
        return
    try:
        async for message in socket:
            await socket.send(message)
    except ConnectionClosed:
        pass  # How it ended is the caller's to judge.


async def sizes(url):
    """1: frames of every form of length, text and binary; 9: large messages."""
    async with connect(url, max_size=None, compression=None) as socket:
        for size in (0, 1, 125, 126, 127, 128, 65535, 65536, 1_000_000, LARGEST):
            for message in ("é" * (size // 2), os.urandom(size)):
                await socket.send(message)
                assert await socket.recv() == message, size


async def pings(url):
    """2: pings with and without payload are answered with it, between and within messages."""
    async with connect(url, ping_interval=None) as socket:
        for payload in (b"", b"x", bytes(range(125))):
            await asyncio.wait_for(await socket.ping(payload), 10)
        for _ in range(10):
            await socket.ping()
        await socket.send("after ten pings")
        assert await socket.recv() == "after ten pings"


async def fragments(url):
    """5: messages in fragments, with a ping among them, come whole."""
    async def pieces(parts, socket):
        for part in parts:
            yield part
            await socket.ping()

    async with connect(url) as socket:
        for parts in (["a", "b", "c"], ["", "x", ""], [b"\x00", b"\xff" * 70_000, b"end"]):
            await socket.send(pieces(parts, socket))
            assert await socket.recv() == parts[0][:0].join(parts)


async def utf8(url):
    """6: every kind of character comes back; what is no UTF-8 ends the connection with 1007."""
    async with connect(url) as socket:
        for text in ("κόσμε", "\U0010ffff", "\u0000", "\ufffd", "日本語 🚕"):
            await socket.send(text)
            assert await socket.recv() == text
    async with connect(url) as socket:
        async with socket.send_context():
            socket.protocol.send_text(b"\xce\xba\xff", fin=True)
        try:
            await socket.recv()
            raise AssertionError("bad UTF-8 was echoed")
        except ConnectionClosed as closed:
            assert closed.rcvd.code == 1007, closed


async def closes(url):
    """7: codes and reasons of closing cross in both directions."""
    for code, reason in ((1000, ""), (1001, "going"), (3000, "ours"), (4999, "x" * 123)):
        socket = await connect(url)
        await socket.close(code, reason)
        assert (socket.close_code, socket.close_reason) == (code, reason), code
    async with connect(url + "close-1011") as socket:
        try:
            await socket.recv()
            raise AssertionError("nothing was to come")
        except ConnectionClosed as closed:
            assert (closed.rcvd.code, closed.rcvd.reason) == (1011, "as asked"), closed


async def reserved(url):
    """3, 4: reserved bits and opcodes end the connection with 1002."""
    for frame in (b"\xf1\x80\0\0\0\0", b"\x83\x80\0\0\0\0", b"\x8b\x80\0\0\0\0"):
        async with connect(url, compression=None) as socket:
            socket.transport.write(frame)
            try:
                await socket.recv()
                raise AssertionError("a reserved frame was taken")
            except ConnectionClosed as closed:
                assert closed.rcvd.code == 1002, closed


async def compression(url):
    """12: permessage-deflate is agreed end to end."""
    async with connect(url, compression="deflate", max_size=None) as socket:
        assert any(ext.name == "permessage-deflate" for ext in socket.protocol.extensions)
        for size in (16, 1024, 131_072):
            message = "the same again " * size
            await socket.send(message)
            assert await socket.recv() == message


async def many(url):
    """Many at once, each with its own words."""
    async def one(n):
        async with connect(url) as socket:
            for turn in range(20):
                await socket.send(f"{n}:{turn}")
                assert await socket.recv() == f"{n}:{turn}"

    await asyncio.gather(*(one(n) for n in range(50)))


async def call(port):
    url = f"ws://127.0.0.1:{port}/"
    for case in (sizes, pings, reserved, fragments, utf8, closes, compression, many):
        await asyncio.wait_for(case(url), 60)
        print(case.__name__, flush=True)


async def run(port):
    async with serve(echo, "127.0.0.1", port, max_size=None) as server:
        print("serving", server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


asyncio.run({"serve": run, "call": call}[sys.argv[1]](int(sys.argv[2])))
