"""Real small processes under a real supervisor; every wait has an end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import processes, service_folder
from common.errors import LockedError, RunError
from common.process_table import born, living, signal_group
from common.processes import Service, ServiceState, start, states, stop, supervise, tail
from common.service_folder import alone, is_held, make_folders
from common.supervisor import pause_after

SUPERVISOR = """
import json, sys
from pathlib import Path
from common import supervisor
from common.processes import Service, supervise
supervisor._LEFTOVER_S = 0.3
supervise(Path(sys.argv[1]), [Service(**one) for one in json.loads(sys.argv[2])])
"""
DEAF = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
SLEEP = ["sleep", "600"]
PATIENCE_S = 20.0

Services = list[dict[str, object]]
Begin = Callable[[Services], subprocess.Popen[bytes]]


def eventually(true: Callable[[], object]) -> None:
    """Wait until something holds, with an end."""
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def service(name: str, command: list[str] | None = None, **more: object) -> dict[str, object]:
    return {"name": name, "command": command or SLEEP, "first_pause_s": 0.05, "longest_pause_s": 0.1, **more}


def deaf(name: str, stop_s: float) -> dict[str, object]:
    """A service that takes no notice of SIGTERM."""
    return service(name, [sys.executable, "-c", DEAF], stop_s=stop_s)


def supervisor_of(folder: Path, services: Services) -> list[str]:
    return [sys.executable, "-c", SUPERVISOR, str(folder), json.dumps(services)]


def says(folder: Path, name: str, line: str) -> bool:
    return tail(folder, name, 1) == line


def pid_of(folder: Path, name: str) -> int:
    pid = states(folder)[name].pid
    assert pid is not None
    return pid


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose supervisor, and what works in it, is gone when the test is over."""
    monkeypatch.setattr(processes, "_STEADY_S", 0.05)
    monkeypatch.setattr(service_folder, "_LOCK_S", 0.2)
    folder = tmp_path / "site"
    folder.mkdir()
    yield folder
    with suppress(OSError, RunError):
        stop(folder, wait_s=10.0)
    for entry in os.scandir("/proc"):
        with suppress(OSError):
            if entry.name.isdecimal() and Path(entry.path, "cwd").samefile(folder):
                os.kill(int(entry.name), signal.SIGKILL)


@pytest.fixture
def foreground(folder: Path) -> Iterator[Begin]:
    """Starts a supervisor as a child of the test, and waits until its services run."""
    begun: list[subprocess.Popen[bytes]] = []

    def begin(services: Services) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(supervisor_of(folder, services), stderr=subprocess.PIPE)
        begun.append(process)
        eventually(lambda: len(states(folder)) == len(services))
        return process

    yield begin
    for process in begun:
        process.kill()
        process.communicate()


class TestStartAndStop:
    def test_services_run_until_the_stop(self, folder: Path) -> None:
        before = time.time()
        start(folder, supervisor_of(folder, [service("node"), service("worker")]), wait_s=PATIENCE_S)

        found = states(folder)
        assert list(found) == ["node", "worker"]
        for state in found.values():
            assert state == ServiceState(state.pid, state.started_at, restarts=0, last_exit=None)
            assert before - 1 < (state.started_at or 0) <= time.time()
        groups = [pid_of(folder, name) for name in found]
        assert all(living(group) == (group,) for group in groups)

        supervisor = int(service_folder.read_record(folder)["supervisor"])
        assert stop(folder, wait_s=PATIENCE_S)
        assert born(supervisor) is None
        assert not any(living(group) for group in groups)
        assert states(folder) == {}
        assert not (folder / "run" / "services.json").exists()
        said = [line.split(" ", 2)[2] for line in tail(folder, "supervisor", 2).splitlines()]
        assert said == ["supervisor: stops its services", "supervisor: all of them have ended"]

    def test_nothing_to_stop(self, folder: Path) -> None:
        assert not stop(folder, wait_s=1.0)
        assert states(folder) == {}

    def test_they_start_in_order_and_stop_in_reverse(self, folder: Path, foreground: Begin) -> None:
        told = "echo {0} runs >> order; while :; do sleep 0.02; done"
        trapped = "trap 'echo {0} stops >> order; exit 0' TERM; " + told
        order = folder / "order"
        process = foreground([service(name, ["sh", "-c", trapped.format(name)]) for name in ("link", "edge")])
        eventually(lambda: order.exists() and len(order.read_text().splitlines()) == 2)
        link, edge = (state.started_at or 0 for state in states(folder).values())
        process.terminate()

        assert process.wait(PATIENCE_S) == 0
        assert link <= edge  # what they write may interleave
        assert order.read_text().splitlines()[2:] == ["edge stops", "link stops"]

    def test_a_service_sees_its_folder_its_environment_and_an_empty_input(self, folder: Path) -> None:
        asked = service("node", ["sh", "-c", 'cat; echo "$WORD in $(pwd)"; exec sleep 600'])
        start(folder, supervisor_of(folder, [{**asked, "environment": {"WORD": "hello"}}]), wait_s=PATIENCE_S)

        eventually(lambda: tail(folder, "node", 1) == f"hello in {folder.resolve()}")
        assert (folder / "logs").stat().st_mode & 0o777 == 0o700
        assert (folder / "logs" / "node.log").stat().st_mode & 0o777 == 0o600

    def test_a_hangup_is_ignored(self, folder: Path, foreground: Begin) -> None:
        process = foreground([service("node")])
        process.send_signal(signal.SIGHUP)
        process.terminate()

        assert process.wait(PATIENCE_S) == 0

    def test_a_service_hears_a_hangup(self, folder: Path, foreground: Begin) -> None:
        """nginx reads its settings again at one; a supervisor that ignores them must not hand that on."""
        foreground([service("edge")])
        os.kill(pid_of(folder, "edge"), signal.SIGHUP)

        eventually(lambda: states(folder)["edge"].last_exit == -signal.SIGHUP)

    def test_ctrl_c_stops_and_a_second_one_kills(self, folder: Path, foreground: Begin) -> None:
        process = foreground([deaf("node", stop_s=600.0), deaf("worker", stop_s=600.0)])
        for name in ("node", "worker"):
            eventually(partial(says, folder, name, "deaf"))
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.send_signal(signal.SIGINT)

        assert process.wait(PATIENCE_S) == 0


class TestWhatEnds:
    def test_is_started_again(self, folder: Path) -> None:
        start(folder, supervisor_of(folder, [service("node"), service("worker")]), wait_s=PATIENCE_S)
        worker, node = pid_of(folder, "worker"), pid_of(folder, "node")
        os.kill(node, signal.SIGKILL)

        eventually(lambda: states(folder)["node"].restarts == 1)
        found = states(folder)["node"]
        assert (found.last_exit, found.pid not in (None, node)) == (-9, True)
        assert pid_of(folder, "worker") == worker
        assert "node: ended with status -9 after 0 s; starts again in 0.05 s" in tail(folder, "supervisor", 3)

    def test_at_once_and_every_time_waits_longer_and_longer(self, folder: Path) -> None:
        failing = service("node", ["sh", "-c", "exit 3"], first_pause_s=0.05, longest_pause_s=0.2)
        with pytest.raises(RunError, match=r"site: node does not stay \(status 3, started again \d+ times\)"):
            start(folder, supervisor_of(folder, [failing, service("worker")]), wait_s=2.0)

        eventually(lambda: states(folder)["node"].restarts >= 4)
        said = [line.split()[-2] for line in tail(folder, "supervisor", 100).splitlines() if "node:" in line]
        assert said[:4] == ["0.05", "0.1", "0.2", "0.2"]
        assert states(folder)["worker"].restarts == 0

    def test_a_program_that_is_missing_is_named(self, folder: Path) -> None:
        with pytest.raises(RunError, match=r"edge does not stay \(status 127.*\n.*No such file.*no-such-one"):
            start(folder, supervisor_of(folder, [service("edge", ["no-such-one"])]), wait_s=2.0)

        assert states(folder)["edge"].pid is None

    def test_takes_what_it_had_started_with_it(self, folder: Path) -> None:
        parent = service("worker", ["sh", "-c", "sleep 600 & echo $!; wait"])
        start(folder, supervisor_of(folder, [parent]), wait_s=PATIENCE_S)
        group = pid_of(folder, "worker")
        eventually(lambda: len(living(group)) == 2)
        os.kill(group, signal.SIGKILL)

        eventually(lambda: states(folder)["worker"].restarts == 1)
        eventually(lambda: not living(group))

    @staticmethod
    def was_started_again(folder: Path, times: int) -> bool:
        return states(folder)["exec"].restarts == times

    def test_spares_what_it_had_started_where_that_is_wanted_until_the_stop(self, folder: Path) -> None:
        parent = service("exec", ["sh", "-c", "sleep 600 & echo $!; wait"], spares=True)
        start(folder, supervisor_of(folder, [parent]), wait_s=PATIENCE_S)
        groups = []
        for number in (1, 2):
            groups.append(pid_of(folder, "exec"))
            eventually(lambda: len(living(groups[-1])) == 2)
            os.kill(groups[-1], signal.SIGKILL)
            eventually(partial(self.was_started_again, folder, number))
        time.sleep(0.2)
        assert [len(living(group)) for group in groups] == [1, 1]

        assert stop(folder, wait_s=PATIENCE_S)
        assert not any(living(group) for group in groups)

    def test_what_was_spared_is_ended_after_its_supervisor_was_killed(
        self, folder: Path, foreground: Begin
    ) -> None:
        process = foreground([service("exec", ["sh", "-c", "sleep 600 & wait"], spares=True)])
        group = pid_of(folder, "exec")
        eventually(lambda: len(living(group)) == 2)
        os.kill(group, signal.SIGKILL)
        eventually(lambda: states(folder)["exec"].restarts == 1)
        process.kill()
        process.wait()
        assert living(group)

        start(folder, supervisor_of(folder, [service("exec")]), wait_s=PATIENCE_S)
        assert not living(group)

    def test_a_stop_ends_grandchildren_that_take_no_notice(self, folder: Path) -> None:
        nested = f'{sys.executable} -c "{DEAF}" & sleep 600'
        start(
            folder, supervisor_of(folder, [service("worker", ["sh", "-c", nested], stop_s=0.3)]), wait_s=10.0
        )
        group = pid_of(folder, "worker")
        eventually(partial(says, folder, "worker", "deaf"))

        assert stop(folder, wait_s=PATIENCE_S)
        assert not living(group)

    @given(st.lists(st.floats(0, 120)), st.floats(0.01, 10), st.floats(10, 100))
    def test_pauses_grow_to_a_limit_and_start_anew_after_a_good_minute(
        self, lives_s: list[float], first: float, longest: float
    ) -> None:
        asked = Service("node", ("true",), first_pause_s=first, longest_pause_s=longest)
        pause = 0.0
        for lived_s in lives_s:
            before, pause = pause, pause_after(asked, pause, lived_s)
            assert first <= pause <= longest
            assert pause == first if lived_s >= 60 else pause >= before

    def test_a_stop_that_takes_too_long_says_so(self, folder: Path) -> None:
        start(folder, supervisor_of(folder, [deaf("node", stop_s=1.5)]), wait_s=PATIENCE_S)
        eventually(partial(says, folder, "node", "deaf"))
        with pytest.raises(RunError, match=r"site: is still stopping.*\(waited 0.2 s\)"):
            stop(folder, wait_s=0.2)

        assert stop(folder, wait_s=PATIENCE_S)


class TestKilledSupervisor:
    def test_its_services_end_and_the_next_one_starts(self, folder: Path, foreground: Begin) -> None:
        process = foreground([service("node"), service("worker")])
        groups = [state.pid or 0 for state in states(folder).values()]
        process.kill()
        process.wait()

        eventually(lambda: not any(living(group) for group in groups))
        assert (folder / "run" / "services.json").exists()
        assert states(folder) == {}
        assert not stop(folder, wait_s=1.0)
        start(folder, supervisor_of(folder, [service("node")]), wait_s=PATIENCE_S)
        assert pid_of(folder, "node") not in groups

    def test_what_outlives_it_is_ended_by_the_next_one(self, folder: Path, foreground: Begin) -> None:
        """One that ignores SIGTERM, and one whose first process ends but not what that had started."""
        nested = f'{sys.executable} -c "{DEAF}" & sleep 600'
        process = foreground([deaf("node", stop_s=1.0), service("worker", ["sh", "-c", nested])])
        groups = [state.pid or 0 for state in states(folder).values()]
        for name in ("node", "worker"):
            eventually(partial(says, folder, name, "deaf"))
        process.kill()
        process.wait()
        eventually(lambda: groups[1] not in living(groups[1]))
        assert all(living(group) for group in groups)

        start(folder, supervisor_of(folder, [service("node")]), wait_s=PATIENCE_S)
        assert not any(living(group) for group in groups)
        assert "ends what an earlier one left: 2 of 2 services" in tail(folder, "supervisor", 2)

    @pytest.mark.parametrize(
        "content", ["", "{", "[]", '{"services": 3}', '{"services": {"node": {}, "worker": 3}}']
    )
    def test_a_damaged_record_is_no_obstacle(self, folder: Path, content: str) -> None:
        make_folders(folder)
        (folder / "run" / "services.json").write_text(content)
        (folder / "run" / ".services.json.0a1b.tmp").touch()
        start(folder, supervisor_of(folder, [service("node")]), wait_s=PATIENCE_S)

        assert [path.name for path in sorted((folder / "run").iterdir())] == [
            "services.json",
            "supervisor.lock",
        ]


class TestProcessIdsAreUsedAgain:
    @pytest.fixture
    def innocent(self, folder: Path) -> Iterator[int]:
        """A process with an id that a record names, but younger than the record says."""
        process = subprocess.Popen(SLEEP, cwd=folder, start_new_session=True)
        make_folders(folder)
        entry = {"pid": process.pid, "born": (born(process.pid) or 0) - 1}
        node = {**entry, "started_at": 1.0, "restarts": 0, "last_exit": None}
        record = {"supervisor": process.pid, "born": entry["born"], "services": {"node": node}}
        (folder / "run" / "services.json").write_text(json.dumps(record))
        yield process.pid
        process.kill()
        process.wait()

    def test_it_is_no_leftover(self, folder: Path, innocent: int) -> None:
        start(folder, supervisor_of(folder, [service("node")]), wait_s=PATIENCE_S)

        assert living(innocent) == (innocent,)

    def test_it_is_no_supervisor(self, folder: Path, innocent: int) -> None:
        """The lock is held, but by somebody who could not write who it is."""
        with alone(folder):
            assert is_held(folder)
            assert states(folder) == {}
            with pytest.raises(
                RunError, match=r"site: is held by a supervisor that services.json does not name"
            ):
                stop(folder, wait_s=0.1)

        assert living(innocent) == (innocent,)

    def test_it_is_no_service(
        self,
        folder: Path,
        innocent: int,
        foreground: Begin,
    ) -> None:
        foreground([service("node")])
        path = folder / "run" / "services.json"
        record = json.loads(path.read_text())
        record["services"]["node"]["pid"] = innocent
        path.write_text(json.dumps(record))

        assert states(folder)["node"].pid is None


class TestFullDisk:
    def test_services_go_on_where_nothing_can_be_recorded(self, folder: Path) -> None:
        """A folder in the record's place cannot be written over, as on a full disk."""
        blocked = folder / "run" / "services.json"
        blocked.mkdir(parents=True)
        with pytest.raises(RunError, match="its supervisor does not say how its services are"):
            start(
                folder,
                supervisor_of(folder, [service("node", ["sh", "-c", "echo runs; exit 1"])]),
                wait_s=1.0,
            )
        eventually(lambda: len(tail(folder, "node", 100).splitlines()) > 3)
        said = [line for line in tail(folder, "supervisor", 100).splitlines() if "services.json" in line]
        assert len(said) == 1
        assert "supervisor: run/services.json cannot be written, services go on" in said[0]

        blocked.rmdir()
        eventually(lambda: states(folder))
        assert "run/services.json can be written again" in tail(folder, "supervisor", 100)

    def test_services_go_on_where_a_log_cannot_be_opened(self, folder: Path) -> None:
        (folder / "logs" / "node.log").mkdir(parents=True)
        start(folder, supervisor_of(folder, [service("node")]), wait_s=PATIENCE_S)

        assert "logs/node.log cannot be written, services go on" in tail(folder, "supervisor", 5)

    def test_a_supervisor_goes_on_where_its_own_log_is_full(self, folder: Path) -> None:
        make_folders(folder)
        for name in ("node", "supervisor"):
            (folder / "logs" / f"{name}.log").symlink_to("/dev/full")
        start(
            folder, supervisor_of(folder, [service("node", ["sh", "-c", "echo x; sleep 600"])]), wait_s=10.0
        )
        os.kill(pid_of(folder, "node"), signal.SIGKILL)

        eventually(lambda: states(folder)["node"].restarts == 1)
        assert stop(folder, wait_s=PATIENCE_S)


class TestRefusals:
    def test_a_second_supervisor(self, folder: Path, foreground: Begin) -> None:
        foreground([service("node")])
        with pytest.raises(LockedError, match="site: its services run already; stop them first"):
            start(folder, supervisor_of(folder, [service("node")]), wait_s=PATIENCE_S)
        with pytest.raises(LockedError, match="site: its services run already under another supervisor"):
            supervise(folder, [Service("node", ("sleep", "600"))])

        assert states(folder)["node"].restarts == 0

    def test_looking_at_it_does_not_keep_a_supervisor_from_starting(self, folder: Path) -> None:
        done = threading.Event()

        def look() -> None:
            while not done.is_set():
                is_held(folder)

        watchers = [threading.Thread(target=look) for _ in range(2)]
        for watcher in watchers:
            watcher.start()
        try:
            start(folder, supervisor_of(folder, [service("node")]), wait_s=PATIENCE_S)
        finally:
            done.set()
            for watcher in watchers:
                watcher.join()

    def test_a_command_that_fails_is_quoted(self, folder: Path) -> None:
        with pytest.raises(RunError, match="site: its services could not be started:\nno such site"):
            start(folder, ["sh", "-c", "echo no such site >&2; exit 2"], wait_s=PATIENCE_S)

    def test_a_command_that_is_missing(self, folder: Path) -> None:
        with pytest.raises(RunError, match=r"could not be started \(No such file or directory: no-such\)"):
            start(folder, ["no-such"], wait_s=PATIENCE_S)

    @pytest.mark.parametrize(("name", "command"), [("supervisor", ("x",)), ("../x", ("x",)), ("node", ())])
    def test_a_service_that_cannot_be(self, name: str, command: tuple[str, ...]) -> None:
        with pytest.raises(ValueError, match="a lower-case name"):
            Service(name, command)

    @pytest.mark.parametrize("services", [[], [Service("node", ("true",)), Service("node", ("true",))]])
    def test_services_that_cannot_be_told_apart(self, folder: Path, services: list[Service]) -> None:
        with pytest.raises(ValueError, match="names of their own"):
            supervise(folder, services)


def test_a_signal_to_a_group_that_is_gone_is_no_error() -> None:
    with subprocess.Popen(["true"], start_new_session=True) as process:
        process.wait()

    signal_group(process.pid, signal.SIGTERM)
    assert born(process.pid) is None
    assert living(process.pid) == ()
