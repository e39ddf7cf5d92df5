"""A link between robot and cloud that carries so many Mbit/s each way, on one machine.

As root: two network namespaces with a virtual cable between them, shaped by the kernel (tc tbf). Else a proxy in this
process that lets through so many bytes a second.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

# Of this process, as another benchmark may run. An interface's name has 15 characters at most.
OWN = os.getpid() % 10**6
NAMESPACE, ROBOT_SIDE, CLOUD_SIDE = f"reflexarc-{OWN}", f"reflex-r{OWN}", f"reflex-c{OWN}"
CLOUD_ADDRESS, ROBOT_ADDRESS = (f"10.77.{OWN // 64 % 256}.{OWN % 64 * 4 + host}" for host in (1, 2))
# What the kernel lets through at once, and how long it queues.
BURST, QUEUE = "16kb", "400ms"
# What the proxy passes on at a time.
CHUNK_BYTES = 2048


@dataclass(frozen=True, kw_only=True)
class ShapedLink:
    """What a robot's process has to be started with, and the broker's URL as it sees it. kind: how it is shaped."""

    prefix: tuple[str, ...]
    url: str
    kind: str


@contextmanager
def shaped_link(port: int, mbit: float) -> Iterator[ShapedLink]:
    """Shape the way to a broker that listens on that port of all addresses. mbit: each way; 0 for no limit."""
    if os.geteuid() == 0 and shutil.which("ip") and shutil.which("tc"):
        with _namespace(mbit):
            prefix = ("ip", "netns", "exec", NAMESPACE)
            yield ShapedLink(prefix=prefix, url=f"mqtt://{CLOUD_ADDRESS}:{port}", kind="tc tbf")
    elif mbit:
        with _proxy(port, mbit) as near:
            yield ShapedLink(prefix=(), url=f"mqtt://127.0.0.1:{near}", kind="proxy")
    else:
        yield ShapedLink(prefix=(), url=f"mqtt://127.0.0.1:{port}", kind="loopback")


@contextmanager
def _namespace(mbit: float) -> Iterator[None]:
    subprocess.run(["ip", "netns", "del", NAMESPACE], check=False, capture_output=True)
    inside = f"ip netns exec {NAMESPACE}"
    commands = [
        f"ip netns add {NAMESPACE}",
        f"ip link add {ROBOT_SIDE} type veth peer name {CLOUD_SIDE}",
        f"ip link set {ROBOT_SIDE} netns {NAMESPACE}",
        f"ip addr add {CLOUD_ADDRESS}/30 dev {CLOUD_SIDE}",
        f"ip link set {CLOUD_SIDE} up",
        f"{inside} ip addr add {ROBOT_ADDRESS}/30 dev {ROBOT_SIDE}",
        f"{inside} ip link set {ROBOT_SIDE} up",
        f"{inside} ip link set lo up",
    ]
    if mbit:
        shape = f"root tbf rate {mbit}mbit burst {BURST} latency {QUEUE}"
        commands += [
            f"{inside} tc qdisc replace dev {ROBOT_SIDE} {shape}",
            f"tc qdisc replace dev {CLOUD_SIDE} {shape}",
        ]
    try:
        for command in commands:
            subprocess.run(command.split(), check=True)
        yield
    finally:
        subprocess.run(["ip", "netns", "del", NAMESPACE], check=False, capture_output=True)


@contextmanager
def _proxy(port: int, mbit: float) -> Iterator[int]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def serve(near_reader: asyncio.StreamReader, near_writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        with suppress(asyncio.CancelledError, OSError):  # at the end, or where a side has gone
            await asyncio.gather(_pass_on(near_reader, far_writer, mbit), _pass_on(far_reader, near_writer, mbit))

    server = asyncio.run_coroutine_threadsafe(asyncio.start_server(serve, "127.0.0.1", 0), loop).result()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(_end(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


async def _end(server: asyncio.Server) -> None:
    server.close()
    connections = asyncio.all_tasks() - {asyncio.current_task()}
    for one in connections:
        one.cancel()
    await asyncio.gather(*connections, return_exceptions=True)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, mbit: float) -> None:
    free_at = time.monotonic()
    while chunk := await reader.read(CHUNK_BYTES):
        writer.write(chunk)
        await writer.drain()
        free_at = max(free_at, time.monotonic()) + len(chunk) * 8 / (mbit * 1e6)
        await asyncio.sleep(max(0.0, free_at - time.monotonic()))
    writer.close()
