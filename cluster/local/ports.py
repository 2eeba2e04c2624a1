"""Loopback TCP ports: pick free ones, and keep those of the last run when they are still free.

A port is only *probably* free between the choice and the bind; whoever binds must cope. Ports come
from below the kernel's ephemeral range, so that an outgoing connection of some other program cannot
take one in between. Refuses to replace a port that the user fixed: that is a clear error instead.
"""

import os
import random
import socket
from collections.abc import Iterable, Mapping

from cluster.local.failures import PreflightError

HOST = "127.0.0.1"
RANGE_FIRST, RANGE_LAST = 20_000, 29_999  # below 32768, and clear of Ray's 10002-19999 and Serve's 30000+
TRIES_MAX = 200
BLOCK_FIRST, BLOCK_LAST, BLOCK_PORTS = 30_000, 32_700, 64  # blocks for Serve's replicas, below 32768 too
PORT_HIGHEST = 65_535


def is_free(port: int) -> bool:
    """Whether nothing listens on ``port`` on loopback or on all interfaces."""
    with socket.socket() as probe:
        # As servers do: without it the remains of a closed connection would look like a listener.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def pick(taken: set[int]) -> int:
    """Return a free port that is not in ``taken``.

    Raises:
        PreflightError: when none of many tries is free.
    """
    for _ in range(TRIES_MAX):
        port = random.randint(RANGE_FIRST, RANGE_LAST)  # noqa: S311 - a port number is no secret
        if port not in taken and is_free(port):
            return port
    raise PreflightError(
        f"No free TCP port found between {RANGE_FIRST} and {RANGE_LAST} after {TRIES_MAX} tries. "
        "Stop some other servers on this machine and try again."
    )


def pick_block() -> int:
    """Return the first of ``BLOCK_PORTS`` consecutive ports that are all free.

    Serve gives its replicas ports out of a range. Two stacks with one range would take over each other's
    ports when a replica goes, and a proxy would then reach the wrong marketplace.

    Raises:
        PreflightError: when there is no such block.
    """
    starts = list(range(BLOCK_FIRST, BLOCK_LAST - BLOCK_PORTS, BLOCK_PORTS))
    random.shuffle(starts)
    for start in starts:
        if all(is_free(port) for port in range(start, start + BLOCK_PORTS)):
            return start
    raise PreflightError(
        f"No {BLOCK_PORTS} consecutive free TCP ports found between {BLOCK_FIRST} and {BLOCK_LAST}. "
        "Stop some other servers on this machine and try again."
    )


def fixed_port(environ: Mapping[str, str], variable: str) -> int | None:
    """Return the port that the user fixed by an environment variable, None when there is none.

    Raises:
        PreflightError: when the value is no port number or the port is taken.
    """
    text = environ.get(variable, "").strip()
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= PORT_HIGHEST:
        raise PreflightError(f"{variable}={text} is not a port number. Use one from 1 to {PORT_HIGHEST}.")
    port = int(text)
    if not is_free(port):
        raise PreflightError(
            f"{variable}={port} is taken: another program listens there, or the port needs privileges "
            f"this user lacks. Stop that program, or unset {variable} to let the launcher pick a port."
        )
    return port


def allot(names: Iterable[str], remembered: Mapping[str, int], fixed: Mapping[str, int]) -> dict[str, int]:
    """Give every name a port: the fixed one, else the remembered one if free, else a new one."""
    ports: dict[str, int] = dict(fixed)
    taken = set(fixed.values())
    for name in names:
        if name in ports:
            continue
        port = remembered.get(name, 0)
        if not port or port in taken or not is_free(port):
            port = pick(taken)
        ports[name] = port
        taken.add(port)
    return ports


def accepts(port: int, timeout_s: float = 0.5) -> bool:
    """Whether something accepts connections on ``port``."""
    try:
        with socket.create_connection((HOST, port), timeout=timeout_s):
            return True
    except OSError:
        return False


def environment_port(variable: str) -> int | None:
    """``fixed_port`` of this process's environment."""
    return fixed_port(os.environ, variable)
