"""Downloads in a container: asked for, followed, and looked at from within their unit."""

from typing import Any

from tests.lab.container import Container
from tests.lab.serving import Daemon

PATH = "/api/library/downloads"
LIBRARY = "/var/lib/magi/models"


def unit_of(job_id: str) -> str:
    return f"magi-download@{job_id}.service"


def pull(daemon: Daemon, source: str) -> Any:
    reply = daemon.client.post(PATH, json={"source": source})
    assert reply.status_code == 202, reply.text
    return reply.json()


def wait_for(daemon: Daemon, job_id: str, *states: str, reason: str = "") -> Any:
    """The download, once it is in one of the states and its reason has this text."""
    found: dict[str, Any] = {}

    def is_so() -> bool:
        reply = daemon.client.get(f"{PATH}/{job_id}")
        found.clear()
        found.update(reply.json())
        return found.get("state") in states and reason in (found.get("reason") or "")

    try:
        daemon.container.wait_until(is_so, f"{job_id} {states}")
    except AssertionError as error:
        said = [entry["MESSAGE"] for entry in daemon.container.journal(unit_of(job_id))]
        raise AssertionError(f"{found}; its journal: {said}") from error
    return found


def bytes_here(container: Container, job_id: str) -> int:
    """How much of the files has come; its status says it a second later."""
    script = f"cat {LIBRARY}/.downloads/{job_id}/*.part 2>/dev/null | wc -c"
    return int(container.run(["sh", "-c", script]).stdout)


def reaches(container: Container, unit: str, url: str) -> bool:
    """Whether a process in the unit's control group gets an answer."""
    group = container.show(unit, "ControlGroup")["ControlGroup"]
    join = f"echo $$ >'/sys/fs/cgroup{group}/cgroup.procs'"
    ask = f"exec curl --silent --output /dev/null --max-time 2 {url}"
    return container.run(["sh", "-c", f"{join} && {ask}"], check=False).returncode == 0
