"""The address at which a command answers requests."""

from __future__ import annotations

import argparse
import errno
import ipaddress
import signal
import socket
import sys
from typing import Any

from imgcls_jax.runtime.mistakes import reason

BACKLOG = 1024  # connections that wait to be accepted; the system may allow fewer


def port_number(text: str) -> int:
    """Parses a port, for argparse; 0 is any free one."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535; got {text!r}")
    return int(text)


def add_address(parser: argparse.ArgumentParser, port: int) -> None:
    """Adds --host and --port."""
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default 127.0.0.1: this machine alone)"
    )
    parser.add_argument(
        "--port", type=port_number, default=port, help="default %(default)s; 0 takes a free one"
    )


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that takes connections from now on.

    Raises:
      ValueError: the address is taken, or none of this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        why = error.strerror or reason(error)
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            why = f"{why.split(' (')[0]}; choose another --port"
        raise ValueError(f"port {port} of {host} cannot be listened at: {why}") from error


def is_local(host: str) -> bool:
    """Whether an address takes connections from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def url(listening: socket.socket) -> str:
    """Returns the address of a socket, as a browser takes it."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def server_of(app: Any, *, most_connections: int, seconds_to_end: int) -> Any:
    """Returns a server, uvicorn's.

    Args:
      app: of ASGI.
      most_connections: at a time; one more is told 503.
      seconds_to_end: how long the requests at hand may take once the server is to end.
    """
    import uvicorn

    # h11 reads on, and drops, what a client still sends after it was answered; closing at once would lose
    # the answer on its way.
    options: dict[str, Any] = {"http": "h11", "ws": "none", "limit_concurrency": most_connections}
    options |= {"server_header": False, "log_level": "warning", "access_log": False}
    return uvicorn.Server(uvicorn.Config(app, timeout_graceful_shutdown=seconds_to_end, **options))


def serve(server: Any, listening: socket.socket) -> None:
    """Answers requests until the process is told to end; those at hand are answered first.

    Args:
      server: of `server_of`.
      listening: of `listen`; closed at the end.

    Raises:
      KeyboardInterrupt, SystemExit: the process was told to end, by Ctrl-C or SIGTERM.
    """
    # uvicorn ends as it was told to, by the signal once more: what the command has to clean up comes first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with listening:
        server.run(sockets=[listening])
