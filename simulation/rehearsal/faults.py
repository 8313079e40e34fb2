"""The faults that a federation must survive: each a row, with how it is injected and what must hold after it.

Every row gets a run of its own, is injected at a defined moment of it, and the run is watched to its end.
Of all rows the same is asked: the run completes, no closed round is lost, and a later round holds updates
of every site again. A row says what is particular about it.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from common.certificates import fingerprint, peer_chain
from common.errors import RunError
from common.fleet import is_admitted
from simulation.rehearsal import way_out
from simulation.rehearsal.link import Weather
from simulation.rehearsal.machines import wait_for
from simulation.rehearsal.scene import ROUND_S, Scene, asked_again
from simulation.rehearsal.victims import named, power_off, send, training

AWAY_S = 10.0
CUT_S = 20.0
SLOW_BYTES_PER_S = 600_000
UPLOADED_BYTES = 1_000_000
DELAY_MS = 500
RESET_SHARE = 0.2
ORPHAN_S = 10.0
"""From a round's deadline until the training of a straggler must have ended."""
PROBE_S = 5.0

DISK_SITE = "adult-b"
"""The site whose folder lies on a small disk of its own."""

Words = str
FOLDED, LOST, LATE, REFUSED = "folded", "lost", "late", "refused"


def in_training(scene: Scene) -> None:
    """The moment of most faults: the site that is hit trains in round 2."""
    scene.await_training(2)


def after_round_1(scene: Scene) -> None:
    """The moment between two rounds."""
    scene.await_event("round closed", round=1)


def as_it_is(scene: Scene) -> None:
    """Nothing to do."""


def nothing_more(scene: Scene) -> Iterator[Words]:
    """Nothing else must hold."""
    yield from ()


@dataclass(frozen=True)
class Fault:
    """One row.

    Attributes:
        name: what it is called in chaos.json.
        inject: brings it about, and what belongs to it (the machine comes back, the link is mended);
            returns what was done, in words.
        hit: the site that it is about.
        prepare: done before the run is started.
        moment: waits until it is time.
        outcomes: which outcomes of the site that is hit are right in round 2.
        person: whether the run needs a person to go on: `fedglia rounds resume`.
        returns: whether a later round must hold the site that is hit.
        also: what else must hold at the end; yields what does not.
        disk: the machine that needs a small disk of its own, if one does.
        within_s: longest that recovery may take.
    """

    name: str
    inject: Callable[[Scene], Words]
    hit: str = DISK_SITE
    prepare: Callable[[Scene], None] = as_it_is
    moment: Callable[[Scene], None] = in_training
    outcomes: frozenset[str] = frozenset({FOLDED})
    person: bool = False
    returns: bool = True
    also: Callable[[Scene], Iterator[Words]] = nothing_more
    disk: str = ""
    within_s: float = 90.0


def killed(service: str, words: Words, *, at_hub: bool = False) -> Callable[[Scene], Words]:
    """An injection: one process of the site that is hit, or of the hub, gets SIGKILL."""

    def inject(scene: Scene) -> Words:
        send((scene.hub if at_hub else scene.site).service_pids()[service], signal.SIGKILL)
        return words

    return inject


def kill_uploading(scene: Scene) -> Words:
    """The site loses its node when part of its update is at the hub."""
    link = scene.links[scene.hit]
    link.weather = Weather(bytes_per_s=SLOW_BYTES_PER_S)
    wait_for(lambda: training(scene.site) is None, within_s=ROUND_S, what="the end of training", every_s=0.02)
    before = link.traffic.out_bytes
    wait_for(
        lambda: link.traffic.out_bytes - before > UPLOADED_BYTES,
        within_s=ROUND_S,
        what="a part of the update",
        every_s=0.02,
    )
    send(scene.site.service_pids()["node"], signal.SIGKILL)
    link.weather = Weather()
    return f"node killed when {UPLOADED_BYTES / 1e6:.1f} MB of its update had left"


def site_machine_gone(scene: Scene) -> Words:
    """All of a site ends without a word, and is started again later."""
    count = power_off(scene.site)
    time.sleep(AWAY_S)
    scene.site.do("site", "start")
    return f"all {count} processes of the site killed, started again {AWAY_S:.0f} s later"


def kill_serverapp(scene: Scene) -> Words:
    """The hub loses the process that carries the run out."""
    killed = named(scene.hub.service_pids()["exec"], "flwr-serverapp")
    if not killed:
        raise RunError("no ServerApp runs below the superexec")
    for pid in killed:
        send(pid, signal.SIGKILL)
    return "ServerApp killed"


def hub_machine_gone(scene: Scene) -> Words:
    """All of the hub ends without a word, and is started again later."""
    count = power_off(scene.hub)
    time.sleep(AWAY_S)
    scene.hub.do("hub", "start")
    return f"all {count} processes of the hub killed, started again {AWAY_S:.0f} s later"


def cut_link(scene: Scene) -> Words:
    """Connections are reset, and no new one is let through."""
    scene.links[scene.hit].cut()
    time.sleep(CUT_S)
    scene.links[scene.hit].mend()
    return f"the site's link cut for {CUT_S:.0f} s, connections reset"


def swallow_packets(scene: Scene) -> Words:
    """Connections stay open and nothing comes through, as behind a firewall that drops packets."""
    scene.links[scene.hit].cut(silent=True)
    time.sleep(CUT_S)
    scene.links[scene.hit].mend()
    return f"the site's link swallowed every byte for {CUT_S:.0f} s"


def slow_link(scene: Scene) -> Words:
    """An upload takes seconds."""
    link = scene.links[scene.hit]
    before = link.traffic.out_bytes
    link.weather = Weather(bytes_per_s=SLOW_BYTES_PER_S)
    scene.await_event("round closed", round=2)
    sent = link.traffic.out_bytes - before
    link.weather = Weather()
    return f"{sent / 1e6:.1f} MB up at {SLOW_BYTES_PER_S / 1e6:.1f} MB/s: {sent / SLOW_BYTES_PER_S:.0f} s"


def bad_weather(scene: Scene) -> Words:
    """Every site is far away, and one connection in five is reset."""
    links = scene.links.values()
    before = sum(link.traffic.resets for link in links)
    for link in links:
        link.weather = Weather(delay_ms=DELAY_MS, reset_share=RESET_SHARE)
        link.cut()  # what is open stays as it was: all connect anew under this weather
        link.mend()
    scene.await_event("round closed", round=3, within_s=2 * ROUND_S)
    for link in links:
        link.weather = Weather()
    count = sum(link.traffic.resets for link in links) - before
    if not count:
        raise RunError("no connection was reset; the link does not do what it says")
    return f"two rounds with {DELAY_MS} ms each way; {count} connections reset ({RESET_SHARE:.0%})"


def stop_training(scene: Scene) -> Words:
    """A site hangs: its training takes no step until past the deadline."""
    pid = training(scene.site)
    if pid is None:
        raise RunError(f"{scene.hit}: was done before it could be stopped")
    send(pid, signal.SIGSTOP)
    closed_at = scene.await_event("round closed", round=2)
    opened_at = scene.await_event("round opened", round=2)
    if not scene.await_end_of(pid, within_s=ORPHAN_S):
        raise RunError(f"the straggler's training still runs {ORPHAN_S:.0f} s after the deadline")
    took_s, gone_s = closed_at - opened_at, time.time() - closed_at
    gone = f"its process gone {gone_s:.0f} s later"
    return f"training stopped; round closed without it after {took_s:.0f} s, {gone}"


def stop_site(scene: Scene) -> None:
    """A hospital that is late."""
    scene.site.do("site", "stop")


def join_late(scene: Scene) -> Words:
    """A site comes when the run is under way."""
    scene.site.do("site", "start")
    return "site started after round 1"


def renew_certificate(scene: Scene) -> Words:
    """The edge gets a new key and certificate while a site trains."""
    before = fingerprint(peer_chain(scene.hub.local, timeout_s=PROBE_S)[0])
    scene.hub.do("hub", "renew")
    wait_for(
        lambda: fingerprint(peer_chain(scene.hub.local, timeout_s=PROBE_S)[0]) != before,
        within_s=10.0,
        what="the new certificate at the edge",
    )
    return "new key and certificate at the edge, no process restarted"


def fill_site(scene: Scene) -> Words:
    """A site's disk is full for the rest of the round."""
    disk = scene.disks[scene.hit]
    disk.fill()
    scene.await_event("round closed", round=2)
    disk.make_room()
    return "the site's disk full until the round closed"


def fill_hub(scene: Scene) -> Words:
    """The hub's disk is full until the run has given up, and somebody makes room."""
    disk = scene.disks["hub"]
    disk.fill()
    wait_for(lambda: scene.state() != "running", within_s=ROUND_S, what="the end of the run on a full disk")
    state = scene.state()
    disk.make_room()
    return f"the hub's disk full: the run ended ({state}); room made"


def revoke_site(scene: Scene) -> Words:
    """The coordinator shuts a site out."""
    scene.hub.do("hub", "revoke", scene.hit)
    key = (scene.site.folder / "key").read_bytes()
    authority = scene.site.folder / "hub-ca.crt"
    if is_admitted(scene.hub.local, key, authority, timeout_s=PROBE_S) is not False:
        raise RunError(f"{scene.hit}: was revoked, and is not refused")
    return "site revoked while it trained; refused from the next call on"


def was_asked_again(scene: Scene) -> Iterator[Words]:
    """Work that was lost with its process is asked for once more."""
    if not asked_again(scene.events(), scene.hit):
        yield "the site was not asked again"


_LOSS = frozenset({FOLDED, LOST})

FAULTS: tuple[Fault, ...] = (
    Fault("site's node killed", killed("node", "node killed while the site trained"), also=was_asked_again),
    Fault("site's node killed in an upload", kill_uploading, also=was_asked_again),
    Fault("site's worker killed", killed("worker", "worker killed while it trained"), also=was_asked_again),
    Fault("site's machine gone and back", site_machine_gone, also=was_asked_again),
    Fault("SuperLink killed", killed("link", "SuperLink killed", at_hub=True)),
    Fault("ServerApp killed", kill_serverapp, person=True),
    Fault("superexec killed", killed("exec", "superexec killed", at_hub=True)),
    Fault("edge killed and restarted", killed("edge", "edge killed", at_hub=True)),
    Fault("hub's machine gone and back", hub_machine_gone, person=True),
    Fault("link cut", cut_link),
    Fault("link swallows packets", swallow_packets),
    Fault("link slow", slow_link),
    Fault("20 % of connections reset, 500 ms delay", bad_weather),
    Fault("straggler past the deadline", stop_training, outcomes=frozenset({LATE}), within_s=120.0),
    Fault(
        "site joins late",
        join_late,
        prepare=stop_site,
        moment=after_round_1,
        outcomes=_LOSS,
    ),
    Fault("certificate rotated", renew_certificate),
    Fault("disk full at a site", fill_site, outcomes=frozenset({REFUSED}), disk=DISK_SITE),
    Fault("disk full at the hub", fill_hub, person=True, disk="hub"),
    Fault(
        "run through a CONNECT proxy",
        way_out.describe,
        prepare=way_out.move_behind_proxy,
        moment=after_round_1,
        also=way_out.faults_of_the_way,
    ),
    Fault(
        "site revoked",
        revoke_site,
        hit="ssa",
        outcomes=frozenset({LOST}),
        returns=False,
    ),
)
"""In the order in which they are run: what cannot be undone comes last."""
