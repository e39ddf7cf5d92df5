"""A TCP proxy that stands for the way between a robot or trainer and the broker, and can be cut or held up."""

from __future__ import annotations

import asyncio
import contextlib
import threading

CHUNK_BYTES = 65_536


class LinkProxy:
    """Forwards connections to a port on this machine; made ready by the constructor, ended by `close`."""

    def __init__(self, target_port: int) -> None:
        self._target = target_port
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._open = True
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Break every connection, and every new one."""
        self._open = False
        self._loop.call_soon_threadsafe(self._abort_all)

    def stall(self) -> None:
        """Let nothing through, and let nobody notice."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def heal(self) -> None:
        """Let everything through again."""
        self._open = True
        self._loop.call_soon_threadsafe(self._flowing.set)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._server.close)
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self, work: object) -> asyncio.Server:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)  # type: ignore[arg-type,var-annotated]
        result: asyncio.Server = future.result(10)
        return result

    def _abort_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not self._open:
                raise ConnectionError("cut")
            target_reader, target_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, target_writer}
        pumps = [
            asyncio.ensure_future(self._pump(reader, target_writer)),
            asyncio.ensure_future(self._pump(target_reader, writer)),
        ]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for one in (writer, target_writer):
            one.transport.abort()
        self._writers -= {writer, target_writer}
        await asyncio.wait(pumps)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
