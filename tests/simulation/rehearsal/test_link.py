"""The bad network: what it does to connections, and that it does nothing else."""

from __future__ import annotations

import contextlib
import hashlib
import math
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import RunError
from simulation.rehearsal.link import Link, Weather, doom
from tests.simulation.rehearsal.far_side import count_to_the_end, dial, echo, receive, serving

Open = Callable[..., Link]


@pytest.fixture
def to_echo() -> Iterator[Open]:
    """Starts links to an echo server; stops them all."""
    links: list[Link] = []
    with serving(echo) as port:

        def start(**words: object) -> Link:
            link = Link(("127.0.0.1", port), **words)  # type: ignore[arg-type]
            links.append(link)
            link.start()
            return link

        yield start
        for link in links:
            link.stop()


def test_what_goes_in_comes_out_and_is_counted(to_echo: Open) -> None:
    link = to_echo()
    sent = b"".join(hashlib.sha256(bytes([i % 256, i // 256])).digest() for i in range(20_000))
    with dial(link.port) as connection:
        threading.Thread(target=connection.sendall, args=(sent,)).start()
        assert receive(connection, len(sent)) == sent
    assert (link.traffic.out_bytes, link.traffic.back_bytes) == (len(sent), len(sent))
    assert (link.traffic.connections, link.traffic.resets) == (1, 0)


def test_a_half_that_one_side_ends_leaves_the_other_open() -> None:
    with serving(count_to_the_end) as port:
        link = Link(("127.0.0.1", port))
        link.start()
        with dial(link.port) as connection:
            connection.sendall(b"x" * 1000)
            connection.shutdown(socket.SHUT_WR)
            assert receive(connection, 100) == b"1000"
        link.stop()


def test_a_delay_is_felt_each_way_and_does_not_add_up_over_pieces(to_echo: Open) -> None:
    link = to_echo(weather=Weather(delay_ms=50))
    with dial(link.port) as connection:
        began = time.monotonic()
        connection.sendall(b"a")
        receive(connection, 1)
        first_s = time.monotonic() - began
        began = time.monotonic()
        connection.sendall(b"b" * 500_000)  # some thirty pieces
        receive(connection, 500_000)
        second_s = time.monotonic() - began
    assert first_s >= 0.2  # opening it took one round trip more
    assert 0.1 <= second_s < 1.0


def test_weather_may_change_under_an_open_connection_and_a_throttle_holds(to_echo: Open) -> None:
    link = to_echo()
    with dial(link.port) as connection:
        connection.sendall(b"a")
        receive(connection, 1)
        link.weather = Weather(bytes_per_s=200_000)
        began = time.monotonic()
        connection.sendall(b"b" * 60_000)
        receive(connection, 60_000)
        assert 0.25 <= time.monotonic() - began < 3.0


def test_connections_share_the_throttle(to_echo: Open) -> None:
    link = to_echo(weather=Weather(bytes_per_s=200_000))
    began = time.monotonic()
    with dial(link.port) as one, dial(link.port) as other:
        one.sendall(b"a" * 30_000)
        other.sendall(b"b" * 30_000)
        receive(one, 30_000)
        receive(other, 30_000)
    assert time.monotonic() - began >= 0.25


def survives(port: int) -> bool:
    """Whether 64 KiB there and back get through one connection."""
    try:
        with dial(port) as connection:
            threading.Thread(target=send_what_goes, args=(connection,)).start()
            return len(receive(connection, 1 << 16)) == 1 << 16
    except ConnectionResetError:
        return False


def send_what_goes(connection: socket.socket) -> None:
    """Send 64 KiB; the link may end it."""
    with contextlib.suppress(OSError):
        connection.sendall(b"x" * (1 << 16))


def test_the_seed_says_which_connections_are_reset_mid_way(to_echo: Open) -> None:
    weather = Weather(reset_share=0.4)
    expected = [math.isinf(doom(weather, seed=3, number=n)) for n in range(12)]
    link = to_echo(weather=weather, seed=3)
    assert [survives(link.port) for _ in range(12)] == expected
    assert set(expected) == {True, False}
    assert link.traffic.resets == expected.count(False)


@given(share=st.floats(0, 1), seed=st.integers(0, 1000))
def test_the_named_share_is_doomed_and_within_the_named_bytes(share: float, seed: int) -> None:
    weather = Weather(reset_share=share, reset_within_bytes=10_000)
    ends = [doom(weather, seed=seed, number=number) for number in range(400)]
    doomed = [end for end in ends if not math.isinf(end)]
    assert abs(len(doomed) - 400 * share) <= 1
    assert all(255 < end <= 10_001 for end in doomed)


def test_a_cut_resets_what_is_open_and_what_is_new_until_it_is_mended(to_echo: Open) -> None:
    link = to_echo()
    with dial(link.port) as connection:
        connection.sendall(b"a")
        receive(connection, 1)
        link.cut()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    assert not survives(link.port)
    link.mend()
    assert survives(link.port)
    assert link.traffic.resets == 0


def test_a_silent_cut_holds_everything_back_and_loses_nothing(to_echo: Open) -> None:
    link = to_echo()
    with dial(link.port) as connection:
        connection.sendall(b"a")
        receive(connection, 1)
        link.cut(silent=True)
        connection.sendall(b"bc")
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        link.mend()
        connection.settimeout(5)
        assert receive(connection, 2) == b"bc"


def test_a_half_closed_connection_still_carries_the_way_out(to_echo: Open) -> None:
    link = to_echo()
    with dial(link.port) as connection:
        connection.sendall(b"a")
        receive(connection, 1)
        assert link.half_close() == 1
        assert connection.recv(1) == b""
        connection.sendall(b"more")
        connection.shutdown(socket.SHUT_WR)
        end = time.monotonic() + 5
        while link.traffic.out_bytes < 5 and time.monotonic() < end:
            time.sleep(0.01)
    assert link.traffic.out_bytes == 5


def test_a_target_that_is_down_is_felt_as_a_reset() -> None:
    with serving(echo) as port:
        pass
    link = Link(("127.0.0.1", port))
    link.start()
    assert not survives(link.port)
    link.stop()


def test_a_stopped_link_lets_go_of_its_port_and_may_start_again(to_echo: Open) -> None:
    link = to_echo()
    port = link.port
    with dial(port) as connection:
        connection.sendall(b"a")
        receive(connection, 1)
        link.stop()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with pytest.raises(ConnectionRefusedError):
        dial(port)
    link.stop()  # does nothing
    link.start()
    assert link.port == port
    assert survives(port)


def test_orders_to_a_link_that_does_not_run_and_a_second_start_are_refused(to_echo: Open) -> None:
    link = to_echo()
    with pytest.raises(RunError, match="served already"):
        link.start()
    link.stop()
    for order in (link.cut, link.mend, link.half_close):
        with pytest.raises(RunError, match="not served"):
            order()


def test_a_taken_port_is_named(to_echo: Open) -> None:
    with pytest.raises(RunError, match="cannot be used"):
        to_echo(port=to_echo().port)


def test_as_a_process_it_is_cut_and_mended_by_signals_and_ends_by_one() -> None:
    with serving(echo) as target, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        asked = [sys.executable, "-m", "simulation.rehearsal.link", "--listen", str(port)]
        process = subprocess.Popen([*asked, "--to", f"127.0.0.1:{target}"])
        try:
            assert becomes(port, lets_through=True)
            process.send_signal(signal.SIGUSR1)
            assert becomes(port, lets_through=False)
            process.send_signal(signal.SIGUSR2)
            assert becomes(port, lets_through=True)
            process.terminate()
            assert process.wait(10) == 0
        finally:
            process.kill()
            process.wait()


def becomes(port: int, *, lets_through: bool) -> bool:
    """Whether within ten seconds a port lets connections through, or none any more."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            if survives(port) is lets_through:
                return True
        except ConnectionRefusedError:
            time.sleep(0.05)
    return False
