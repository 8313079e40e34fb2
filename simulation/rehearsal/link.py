"""A bad network in a program: a TCP link that delays, throttles, resets, and can be cut and mended.

The kernel's own tool for this (tc netem) is missing on many machines and wants to be root. This one sits
between a site and the hub's edge as any middlebox would, sees only bytes, and is told the weather as it runs:

    link = Link(("127.0.0.1", 8443), weather=Weather(delay_ms=500, reset_share=0.2))
    link.start()
    ...                 # dial 127.0.0.1:link.port
    link.cut()
    link.mend()
    link.stop()

`python -m simulation.rehearsal.link --listen PORT --to HOST:PORT` is the same as a process: SIGUSR1 cuts,
SIGUSR2 mends, SIGTERM ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import signal
from dataclasses import dataclass
from typing import Literal

import click

from simulation.rehearsal.background import Background, reset

_PIECE_BYTES = 1 << 14
_PIECES_UNDER_WAY = 256
"""At most 4 MiB wait in each direction of a connection; then the sender feels it."""
_LEAST_BYTES = 256

Direction = Literal["out", "back"]
"""`out` is from those who dial to the target."""
Pieces = asyncio.Queue[tuple[float, bytes]]
"""When each piece is due at the far end, and the piece; an empty one is the end."""


@dataclass(frozen=True)
class Weather:
    """What the link does to those who use it."""

    delay_ms: float = 0.0
    """Each way, so a question and its answer take twice that; a new connection takes one more round trip."""
    bytes_per_s: float | None = None
    """In each direction, shared by all connections; `None` is as fast as the machine."""
    reset_share: float = 0.0
    """Of the connections opened under this weather, 0 to 1; which ones is settled by the link's seed."""
    reset_within_bytes: int = 1 << 16
    """A doomed connection is reset after at most so many bytes, both ways together, and at least 256."""


@dataclass(eq=False)
class _Way:
    """One direction of one connection."""

    name: Direction
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    closed: bool = False

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            with contextlib.suppress(OSError):  # the other side may have gone already
                self.writer.write_eof()


@dataclass(eq=False)
class _Connection:
    out: _Way
    back: _Way
    doomed_at_bytes: float
    moved_bytes: int = 0


@dataclass
class Traffic:
    """What went through a link since it was made."""

    connections: int = 0
    resets: int = 0
    """Connections that the link itself reset because of the weather's `reset_share`; cuts are not counted."""
    out_bytes: int = 0
    """From those who dial to the target."""
    back_bytes: int = 0


class Link:
    """A link from a port of 127.0.0.1 to `target`; `weather` may be set at any time."""

    def __init__(
        self, target: tuple[str, int], *, port: int = 0, weather: Weather | None = None, seed: int = 0
    ) -> None:
        self.weather = weather or Weather()
        self.traffic = Traffic()
        self._target = target
        self._seed = seed
        self._server = Background(self._carry, port)
        self._open: set[_Connection] = set()
        self._free_at_s: dict[Direction, float] = {"out": 0.0, "back": 0.0}
        self._refuses = False
        self._passable = asyncio.Event()
        self._passable.set()

    @property
    def port(self) -> int:
        """Where to dial on 127.0.0.1; known once started."""
        return self._server.port

    def start(self) -> None:
        """Listen; a stopped link may be started again on the same port.

        Raises:
            RunError: it runs already, or the port is taken.
        """
        self._server.start()

    def stop(self) -> None:
        """Reset what is open and listen no more."""
        self._server.stop()

    def cut(self, *, silent: bool = False) -> None:
        """Let nothing through until `mend`.

        Open connections are reset, and so is every new one. A `silent` cut is a firewall that drops packets
        instead: connections stay open, new ones are taken, and no byte arrives; after `mend` they go on.

        Raises:
            RunError: the link does not run.
        """
        self._server.order(self._cut(silent=silent))

    def mend(self) -> None:
        """Let everything through again.

        Raises:
            RunError: the link does not run.
        """
        self._server.order(self._mend())

    def half_close(self) -> int:
        """End the way back of every open connection, as some middleboxes do; the way out stays open.

        Returns:
            How many connections were open.

        Raises:
            RunError: the link does not run.
        """
        return self._server.order(self._half_close())

    async def _cut(self, *, silent: bool) -> None:
        if silent:
            self._passable.clear()
        else:
            self._refuses = True
            await self._server.reset_open()

    async def _mend(self) -> None:
        self._refuses = False
        self._passable.set()

    async def _half_close(self) -> int:
        for connection in self._open:
            connection.back.close()
        return len(self._open)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its opening to its end."""
        number = self.traffic.connections
        self.traffic.connections += 1
        writers = [writer]
        try:
            if self._refuses:
                raise ConnectionResetError
            weather = self.weather
            await asyncio.sleep(2 * weather.delay_ms / 1000)
            far_reader, far_writer = await asyncio.open_connection(*self._target)
            writers.append(far_writer)
            connection = _Connection(
                out=_Way("out", reader, far_writer),
                back=_Way("back", far_reader, writer),
                doomed_at_bytes=doom(weather, seed=self._seed, number=number),
            )
            await self._carry_both_ways(connection)
        except BaseException:  # an ended target, a reset, a cut: whoever dialled feels the same
            for each in writers:
                reset(each)
            raise
        for each in writers:
            each.close()

    async def _carry_both_ways(self, connection: _Connection) -> None:
        self._open.add(connection)
        broken = False
        try:
            async with asyncio.TaskGroup() as tasks:
                for way in (connection.out, connection.back):
                    pieces: Pieces = asyncio.Queue(_PIECES_UNDER_WAY)
                    tasks.create_task(self._take(way, pieces))
                    tasks.create_task(self._give(connection, way, pieces))
        except* OSError:
            broken = True
        finally:
            self._open.discard(connection)
        if broken:
            raise ConnectionResetError

    async def _take(self, way: _Way, pieces: Pieces) -> None:
        piece = b"more"
        while piece:
            piece = await way.reader.read(_PIECE_BYTES)
            await pieces.put((self._arrives_at(way, len(piece)), piece))

    def _arrives_at(self, way: _Way, size_bytes: int) -> float:
        """When a piece that is read now comes out at the other end, on the loop's clock."""
        weather, now = self.weather, asyncio.get_running_loop().time()
        free_at_s = now
        if weather.bytes_per_s is not None:
            free_at_s = max(now, self._free_at_s[way.name]) + size_bytes / weather.bytes_per_s
            self._free_at_s[way.name] = free_at_s
        return free_at_s + weather.delay_ms / 1000

    async def _give(self, connection: _Connection, way: _Way, pieces: Pieces) -> None:
        while True:
            when, piece = await pieces.get()
            await asyncio.sleep(when - asyncio.get_running_loop().time())
            await self._passable.wait()
            if not piece:
                way.close()
                return
            self._count(connection, way, len(piece))
            if not way.closed:
                way.writer.write(piece)
                await way.writer.drain()

    def _count(self, connection: _Connection, way: _Way, size_bytes: int) -> None:
        if way.name == "out":
            self.traffic.out_bytes += size_bytes
        else:
            self.traffic.back_bytes += size_bytes
        connection.moved_bytes += size_bytes
        if connection.moved_bytes >= connection.doomed_at_bytes:
            self.traffic.resets += 1
            raise ConnectionResetError


def doom(weather: Weather, *, seed: int, number: int) -> float:
    """After how many bytes connection `number` of a link is reset; infinity for one that is spared."""
    first = random.Random(str(seed)).random()
    so_far, with_it = (math.floor(first + weather.reset_share * count) for count in (number, number + 1))
    if so_far == with_it:  # evenly spread, for a link that is opened seldom has its share too
        return math.inf
    rng = random.Random(f"{seed} {number}")
    return math.exp(rng.uniform(math.log(_LEAST_BYTES), math.log(weather.reset_within_bytes)))


@click.command(help=__doc__)
@click.option("--listen", "port", type=int, required=True, help="Port of 127.0.0.1.")
@click.option("--to", "target", required=True, metavar="HOST:PORT", help="Where the link leads.")
@click.option("--delay-ms", type=click.FloatRange(0), default=0.0, help="Each way.")
@click.option("--bytes-per-s", type=click.FloatRange(1), default=None, help="In each direction.")
@click.option("--reset-share", type=click.FloatRange(0, 1), default=0.0, help="Of the connections.")
@click.option("--seed", type=int, default=0, help="Settles which connections are reset.")
def main(
    *, port: int, target: str, delay_ms: float, bytes_per_s: float | None, reset_share: float, seed: int
) -> None:
    """A link as a process of its own, until SIGTERM."""
    host, _, target_port = target.rpartition(":")
    weather = Weather(delay_ms=delay_ms, bytes_per_s=bytes_per_s, reset_share=reset_share)
    link = Link((host, int(target_port)), port=port, weather=weather, seed=seed)
    orders = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)
    signal.pthread_sigmask(signal.SIG_BLOCK, orders)  # before the thread starts, which inherits the mask
    link.start()
    while (order := signal.sigwait(orders)) in (signal.SIGUSR1, signal.SIGUSR2):
        (link.cut if order == signal.SIGUSR1 else link.mend)()
    link.stop()


if __name__ == "__main__":
    main()
