"""Answers and errors of a rollout server, with real sockets and a minimal server."""

import asyncio
import socket

import pytest

from skyrl_train.rollout.vllm_server.client import Server, ServerError, ServerLostError


def answer(status, body=b'{"error": {"message": "no such tensor"}}'):
    head = f"HTTP/1.1 {status} -\r\nContent-Length: {len(body)}\r\nContent-Type: application/json\r\n\r\n"
    return head.encode() + body


class Closing:
    """Answers its first request with an error, and closes the connection when the next request arrives on it."""

    def __init__(self, health):
        self.health, self.connections = health, 0

    async def handle(self, reader, writer):
        self.connections += 1
        first = self.connections == 1
        while head := await reader.readline():
            while (line := await reader.readline()).strip():
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            if head.startswith(b"POST"):
                await reader.readexactly(length)
                writer.write(answer(500))
            elif first:
                break
            else:
                writer.write(answer(self.health))
        writer.close()


def called(health):
    async def run():
        closing = Closing(health)
        listening = await asyncio.start_server(closing.handle, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        server = Server(f"http://127.0.0.1:{port}", timeout=30)
        async with listening, server.connected():
            await server.call("POST", "/update_weights", {"a": 1})

    asyncio.run(run())


def test_a_refusal_is_no_loss_even_if_the_server_closes_the_connection():
    with pytest.raises(ServerError, match=r"refuses /update_weights \(500\): no such tensor") as error:
        called(health=200)
    assert not isinstance(error.value, ServerLostError)


def test_an_error_of_an_unhealthy_server_means_its_engine_has_died():
    with pytest.raises(ServerLostError, match="has died"):
        called(health=503)


def test_an_unreachable_server_is_lost():
    async def run(port):
        server = Server(f"http://127.0.0.1:{port}", timeout=30)
        async with server.connected():
            assert not await server.is_healthy()
            await server.weight_version()

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # it does not listen, and no other process can
        with pytest.raises(ServerLostError, match="no rollout server answers at http://127"):
            asyncio.run(run(silent.getsockname()[1]))
