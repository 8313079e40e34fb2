"""The loop that keeps services running: starts them in order, starts again what ends, stops them in reverse.

A service is a process group: what a service starts ends with it, and before it is started again, but for
one that spares it. One thread, which sleeps until a signal, an ending or the next start is due. A disk that
is full stops no service: what could not be written is written when there is room again.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from common.errors import RunError
from common.files import sweep_drafts, write_atomic
from common.process_table import born, end_with, living, signal_group, works_in
from common.service_folder import alone, make_folders, read_record, record_file
from common.service_logs import TIME, open_log, rotate

LOG = "supervisor"
"""The name under which the supervisor's own log lies beside those of its services."""
NOT_STARTED = 127
"""What `last_exit` says of a service whose command could not be started at all, as in a shell."""
WELL_S = 60.0
_NAME = re.compile(r"[a-z][a-z0-9-]*")
_TICK_S = 5.0
_LINGER_S = 0.1
_KILLED_S = 5.0
_LEFTOVER_S = 15.0

T = TypeVar("T")


@dataclass(frozen=True)
class Service:
    """One process that is to run for as long as its supervisor does.

    Attributes:
        name: lower case; names its log.
        command: program and arguments; it runs in the supervised folder, so paths in it are absolute.
        environment: what is set beside, or instead of, what the supervisor's own environment holds.
        first_pause_s: before it is started again; doubled each time until it has lived for `WELL_S`.
        longest_pause_s: the most that the pause grows to.
        stop_s: from SIGTERM to SIGKILL.
        spares: whether what it started goes on when it ends by itself; it is ended with the supervisor.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    first_pause_s: float = 1.0
    longest_pause_s: float = 30.0
    stop_s: float = 15.0
    spares: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name == LOG or not self.command:
            raise ValueError(
                f"service '{self.name}': a lower-case name, not '{LOG}', and a command are needed"
            )


def supervise(folder: Path, services: Sequence[Service]) -> None:
    """Keep services running until SIGTERM or SIGINT (Ctrl-C), in the foreground; a second Ctrl-C kills.

    To be called from the main thread: services are tied to the thread that starts them.

    Raises:
        LockedError: another supervisor runs for this folder.
        OSError: the folder cannot be written at all.
        ValueError: no service, two of one name, or not the main thread.
    """
    folder = folder.resolve()
    if not services or len({service.name for service in services}) < len(services):
        raise ValueError("services with names of their own are needed")
    make_folders(folder)
    with alone(folder), _listening() as signals:
        sweep_drafts(folder / "run")
        _end_leftovers(folder, signals)
        _Supervisor(folder, services, signals).run()


def pause_after(service: Service, pause_s: float, lived_s: float) -> float:
    """Seconds to wait before a service is started again, after one that followed a pause of `pause_s`.

    Args:
        service: whose first and longest pause count.
        pause_s: the pause before; 0 if there was none.
        lived_s: how long the service ran after it.
    """
    if lived_s >= WELL_S or pause_s <= 0:
        return service.first_pause_s
    return min(2 * pause_s, service.longest_pause_s)


@dataclass
class _Signals:
    """What was asked of this process since it started to listen."""

    pipe: int
    stops: int = 0
    interrupts: int = 0

    def hear(self, number: int, frame: object) -> None:
        """Count a signal; endings of services only wake the loop."""
        self.stops += number in (signal.SIGTERM, signal.SIGINT)
        self.interrupts += number == signal.SIGINT

    def wait(self, seconds: float) -> None:
        """Sleep, at most so long, until a signal comes or a child ends."""
        if select.select([self.pipe], [], [], max(0.0, seconds))[0]:
            with contextlib.suppress(BlockingIOError):
                os.read(self.pipe, 1 << 16)


@contextmanager
def _listening() -> Iterator[_Signals]:
    """Take over the signals of this process for as long as the block runs.

    Handlers, not masks or SIG_IGN: a service gets neither of them when it is started.
    """
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signals = _Signals(reader)
    heard = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
    before = {number: signal.signal(number, signals.hear) for number in heard}
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield signals
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)


def _end_leftovers(folder: Path, signals: _Signals) -> None:
    """End what a killed supervisor left: a service that ignored SIGTERM, or what a service had started.

    A process group is ours if its first process is the recorded one, or is gone, and one in it works here.
    """
    found = read_record(folder).get("services", {})
    recorded = {entry["pid"]: entry["born"] for entry in found.values() if entry["pid"]}
    recorded |= {group: None for entry in found.values() for group in entry.get("spared", ())}
    groups = [
        group
        for group, started in recorded.items()
        if born(group) in (None, started) and any(works_in(pid, folder) for pid in living(group))
    ]
    if not groups:
        return
    _say(f"{LOG}: ends what an earlier one left: {len(groups)} of {len(found)} services")
    for number, wait_s in ((signal.SIGTERM, _LEFTOVER_S), (signal.SIGKILL, _KILLED_S)):
        end = time.monotonic() + wait_s
        for group in groups:
            signal_group(group, number)
        while (groups := [group for group in groups if living(group)]) and time.monotonic() < end:
            signals.wait(_LINGER_S)


def _ended(group: int) -> int | None:
    """A child of ours in a process group that ended and was not reaped yet."""
    try:
        found = os.waitid(os.P_PGID, group, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return found.si_pid if found else None


def _tie(supervisor: int) -> None:
    """In a new process, before it becomes the service: end when the supervisor does, whatever ends that."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # until it becomes another program it has our handlers
    end_with(supervisor, signal.SIGTERM)


def _say(text: str) -> None:
    """One line on standard error; a full disk or a closed terminal is no reason to end."""
    line = f"{time.strftime(TIME)} {text}\n"
    with contextlib.suppress(OSError):
        os.write(2, line.encode())


@dataclass
class _Charge:
    """A service as it is now. `group` outlives `process` where the service had started processes itself.

    Groups that were spared are what earlier processes of it left at work.
    """

    service: Service
    process: subprocess.Popen[bytes] | None = None
    group: int | None = None
    born: int | None = None
    started_at: float | None = None
    began_s: float = 0.0
    pause_s: float = 0.0
    due_s: float = 0.0
    starts: int = 0
    last_exit: int | None = None
    spared: list[int] = field(default_factory=list)

    @property
    def groups(self) -> list[int]:
        """All that there is of it."""
        return self.spared if self.group is None else [*self.spared, self.group]

    def record(self) -> dict[str, object]:
        """Its line of services.json."""
        return {
            "pid": self.process.pid if self.process else None,
            "born": self.born,
            "started_at": self.started_at,
            "restarts": max(0, self.starts - 1),
            "last_exit": self.last_exit,
            "spared": self.spared,
        }

    def collect(self) -> int | None:
        """Reap what ended in its groups; the exit status of the service if it is among it."""
        status = None
        for group in self.groups:
            while (ended := _ended(group)) is not None:
                if self.process and ended == self.process.pid:
                    status, self.process = self.process.wait(), None
                else:  # an orphan; they come to us where we are a container's first process
                    os.waitpid(ended, 0)
        self.spared = [group for group in self.spared if living(group)]
        if self.process is None and self.group is not None and not living(self.group):
            self.group = None
        return status

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all that the service is."""
        if self.group is not None:
            signal_group(self.group, number)

    def spare(self) -> None:
        """Leave what it started at work."""
        if self.group is not None:
            self.spared.append(self.group)
            self.group = None


class _Supervisor:
    """The state of the loop."""

    def __init__(self, folder: Path, services: Sequence[Service], signals: _Signals) -> None:
        self.folder = folder
        self.charges = [_Charge(service) for service in services]
        self.signals = signals
        self.recorded = b""
        self.checked_s = 0.0
        self.troubles: set[str] = set()

    def run(self) -> None:
        """Until a stop is asked for; then, or if this fails, nothing is left running."""
        try:
            while not self.signals.stops:
                self.begin_due()
                self.record()
                self.rotate()
                self.signals.wait(self.idle_s())
                self.collect()
        finally:
            _say(f"{LOG}: stops its services")
            for charge in reversed(self.charges):
                self.stop(charge)
            if not any(charge.groups for charge in self.charges):
                _say(f"{LOG}: all of them have ended")
            with contextlib.suppress(OSError):  # nobody believes it without the lock
                record_file(self.folder).unlink(missing_ok=True)

    def idle_s(self) -> float:
        """How long there is nothing to do, if nothing happens."""
        if any(charge.group and not charge.process for charge in self.charges):
            return _LINGER_S
        due = [charge.due_s - time.monotonic() for charge in self.charges if not charge.process]
        return min([_TICK_S, *due])

    def begin_due(self) -> None:
        """Start, in order, what does not run and has waited long enough."""
        for charge in self.charges:
            if charge.process is None and charge.due_s <= time.monotonic() and not self.signals.stops:
                charge.signal(signal.SIGKILL)
                self.begin(charge)

    def begin(self, charge: _Charge) -> None:
        """Start one service, with its output in its log."""
        service = charge.service
        charge.starts += 1
        charge.began_s, charge.started_at = time.monotonic(), round(time.time(), 3)
        output = self.output(service.name)
        try:
            charge.process = subprocess.Popen(
                service.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                env={**os.environ, **service.environment},
                start_new_session=True,
                preexec_fn=partial(_tie, os.getpid()),
            )
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            self.pause(charge, NOT_STARTED, f"could not be started ({error})")
        else:
            charge.group, charge.born = charge.process.pid, born(charge.process.pid)
        finally:
            os.close(output)

    def output(self, name: str) -> int:
        """A descriptor of the service's log, or of nowhere."""
        descriptor = self.attempt(f"logs/{name}.log", partial(open_log, self.folder, name))
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC) if descriptor is None else descriptor

    def collect(self) -> None:
        """Notice what ended; what it had started is asked to end too, before it is started again."""
        for charge in self.charges:
            status = charge.collect()
            if status is not None:
                charge.spare() if charge.service.spares else charge.signal(signal.SIGTERM)
                self.pause(charge, status, f"ended with status {status}")

    def pause(self, charge: _Charge, status: int, what: str) -> None:
        """Say when a service that does not run will be started again."""
        now = time.monotonic()
        lived_s = now - charge.began_s
        charge.pause_s = pause_after(charge.service, charge.pause_s, lived_s)
        charge.due_s, charge.born, charge.last_exit = now + charge.pause_s, None, status
        _say(f"{charge.service.name}: {what} after {lived_s:.0f} s; starts again in {charge.pause_s:g} s")

    def record(self) -> None:
        """Write services.json where it does not say how things are; tried again at each turn."""
        now = {charge.service.name: charge.record() for charge in self.charges}
        whole = {"supervisor": os.getpid(), "born": born(os.getpid()), "services": now}
        content = json.dumps(whole, indent=1).encode()

        def write() -> bytes:
            write_atomic(record_file(self.folder), content)
            return content

        if content != self.recorded:
            self.recorded = self.attempt("run/services.json", write) or self.recorded

    def rotate(self) -> None:
        """Look, now and then, whether a log has grown past its limit."""
        if time.monotonic() - self.checked_s < _TICK_S:
            return
        self.checked_s = time.monotonic()
        for name in (*(charge.service.name for charge in self.charges), LOG):
            self.attempt(f"old logs of {name}", partial(rotate, self.folder, name))

    def attempt(self, what: str, write: Callable[[], T]) -> T | None:
        """Write something; where that fails, say so once until it works again, and give None."""
        try:
            found = write()
        except (OSError, RunError) as error:
            if what not in self.troubles:
                _say(f"{LOG}: {what} cannot be written, services go on ({error})")
            self.troubles.add(what)
            return None
        if what in self.troubles:  # on a full disk the first line may not have been written either
            _say(f"{LOG}: {what} can be written again")
        self.troubles.discard(what)
        return found

    def stop(self, charge: _Charge) -> None:
        """End one service and all that it started: SIGTERM, and SIGKILL for what is still there then."""
        for number, wait_s in ((signal.SIGTERM, charge.service.stop_s), (signal.SIGKILL, _KILLED_S)):
            for group in charge.groups:
                signal_group(group, number)
            end = time.monotonic() + wait_s
            while charge.collect() is not None or charge.groups:
                impatient = number == signal.SIGTERM and self.signals.interrupts > 1
                if impatient or time.monotonic() > end:
                    break
                self.signals.wait(_LINGER_S)
        if charge.groups:
            _say(f"{charge.service.name}: cannot be killed; process groups {charge.groups} are left behind")
