"""All checks in the order in which they are made; one that breaks is a finding and does not end the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from client.doctor import folder, installation, machine, network, running, scans
from client.doctor.findings import Finding, Said, failed
from client.doctor.subject import Subject

Check = Callable[[Subject], Iterator[Said]]


@dataclass(frozen=True)
class Row:
    """A check.

    Attributes:
        code: by which machines and the handbook know it; never changes its meaning.
        what: what it looks at, for people.
        slow: it reads scans, which may take minutes.
    """

    code: str
    what: str
    check: Check
    slow: bool = False


CHECKS: Sequence[Row] = (
    Row("python", "the version of Python", installation.check_python),
    Row("packages", "the packages and their versions", installation.check_packages),
    Row("names", "other packages under our names", installation.check_names),
    Row("programs", "programs that could run what they should not", installation.check_programs),
    Row("gpu", "the GPU and its memory", machine.check_gpu),
    Row("memory", "the memory", machine.check_memory),
    Row("cores", "the processor", machine.check_cores),
    Row("disk", "room and rights in the site folder", machine.check_disk),
    Row("shared-memory", "/dev/shm", machine.check_shared_memory),
    Row("folder", "who may look into the site folder", folder.check_folder),
    Row("key", "the key and the secret", folder.check_key),
    Row("policy", "what this hospital allows", folder.check_policy),
    Row("records", "the records of what left and what was decided", folder.check_records),
    Row("leftovers", "what a crash or an old run left", folder.check_leftovers),
    Row("port", "the port between node and worker", running.check_port),
    Row("proxy", "the proxy on the way to the hub", network.check_proxy),
    Row("name", "the address of the hub, or of the proxy", network.check_name),
    Row("hub", "whether the hub answers, and is the one that is believed", network.check_hub),
    Row("certificate", "when certificates end", network.check_certificate),
    Row("clock", "this machine's clock against the hub's", network.check_clock),
    Row("versions", "this site's versions against the hub's", network.check_versions),
    Row("admission", "whether the hub knows this site's key", network.check_admission),
    Row("processes", "whether node and worker run and stay up", running.check_processes),
    Row("heard", "whether the hub has answered the node lately", running.check_heard),
    Row("data", "every case in the data folder", scans.check_cases, slow=True),
    Row("withdrawn", "the patients who withdrew", folder.check_withdrawn, slow=True),
    Row("patients", "whether there are patients enough", scans.check_split, slow=True),
    Row("step", "one real training step", scans.check_step, slow=True),
)


def examine(subject: Subject, *, quick: bool = False) -> Iterator[Finding]:
    """Make the checks, and say what each finds as soon as it does.

    Args:
        subject: the site.
        quick: leave out those that read scans.
    """
    for row in CHECKS:
        if not (quick and row.slow):
            yield from (Finding(said.level, row.code, said.text, said.mend) for said in _made(row, subject))


def _made(row: Row, subject: Subject) -> Iterator[Said]:
    try:
        yield from row.check(subject)
    except Exception as error:  # a check that breaks is a finding, whatever broke it
        yield failed(
            f"{row.what} could not be looked at ({type(error).__name__}: {str(error)[:200]})",
            "fedglia site check --json, and send this line to whoever maintains FedGlia",
        )
