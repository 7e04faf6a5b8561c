"""Who listens on which TCP port. psutil reads /proc; who has no right to a process sees no pid."""

from pathlib import Path

from magid.doctor.facts import Listener


def listeners() -> tuple[Listener, ...]:
    """All of this machine, by port."""
    import psutil  # costs a tenth of a second

    found = {
        (c.laddr.ip, c.laddr.port, c.pid or 0)
        for c in psutil.net_connections("tcp")
        if c.status == psutil.CONN_LISTEN and c.laddr
    }
    return tuple(
        Listener(host, port, pid, _program(pid), _unit(pid))
        for host, port, pid in sorted(found, key=lambda one: (one[1], one[0]))
    )


def _program(pid: int) -> str:
    return _text(pid, "comm").strip()


def _unit(pid: int) -> str:
    """The last service or scope of its control group (v2): `0::/system.slice/x.service`."""
    parts = _text(pid, "cgroup").strip().rpartition("::")[2].split("/")
    return next((part for part in reversed(parts) if part.endswith((".service", ".scope"))), "")


def _text(pid: int, name: str) -> str:
    if not pid:
        return ""
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""
