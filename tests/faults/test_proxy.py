"""The proxy of the faults breaks what it is told to break, and nothing else."""

from __future__ import annotations

import socket
import struct

import pytest
from tests.faults.proxy import Proxy

SECONDS = 20


def test_of_a_client_that_is_killed_the_server_sees_the_end() -> None:
    """What it has not read makes the kernel reset its connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(SECONDS)
        with Proxy(listening.getsockname()[1]).running() as proxy:
            client = socket.create_connection(("127.0.0.1", proxy.port), timeout=SECONDS)
            client.sendall(b"BEGIN")
            there, _ = listening.accept()
            with there:
                there.settimeout(SECONDS)
                assert there.recv(10) == b"BEGIN"
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
                try:
                    assert there.recv(10) == b""
                except ConnectionResetError:
                    pass
                except TimeoutError:
                    pytest.fail("the server waits for a client that is no more")
