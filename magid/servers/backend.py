"""What magid calls its servers: the values that cross the line between deciding and running.

Pure data and pure functions: no I/O, no await. Both launchers (`processes`, `systemd`) speak these
words, and so does the privileged helper, which trusts nothing else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from magid.host.usage import ServerFigures
from magid.llama.spec import ServerSpec
from magid.log.buffer import LogLine
from magid.systemd.unit_names import unit_name


class ServerState(StrEnum):
    """Where one server is; `ready` means that it answers /health with 200 and is ours."""

    STOPPED = "stopped"
    STARTING = "starting"  # the process exists, its port does not answer yet
    LOADING = "loading"  # /health answers 503: the model is being read
    READY = "ready"
    STOPPING = "stopping"
    FAILED = "failed"  # gave up; stays so until someone asks again
    BACKOFF = "backoff"  # ended by itself; will be started again

    @property
    def is_running(self) -> bool:
        """A process exists, or is about to."""
        return self in _RUNNING

    @property
    def is_settled(self) -> bool:
        """Nothing changes by itself any more."""
        return self in (ServerState.STOPPED, ServerState.READY, ServerState.FAILED)


_RUNNING = frozenset(
    {ServerState.STARTING, ServerState.LOADING, ServerState.READY, ServerState.STOPPING}
)


@dataclass(frozen=True, slots=True)
class ObservedServer:
    """What is known of one server at one moment. Replaced whole, never changed in place."""

    port: int
    model_id: str
    instance: int
    spec_hash: str
    state: ServerState
    reason: str = ""  # why it is failed / in backoff / stopped, for a person
    pid: int | None = None
    host: str = "127.0.0.1"
    started_at: float | None = None  # seconds since the epoch, of the present process
    ready_at: float | None = None
    restarts: int = 0  # automatic ones since someone last asked for a start
    invocation_id: str | None = None  # one per process start
    uid: int | None = None  # of the user it runs as; None where that is not known

    @property
    def unit(self) -> str:
        return unit_name(self.port)

    @property
    def key(self) -> tuple[str, int]:
        return (self.model_id, self.instance)


def initial_state(spec: ServerSpec) -> ObservedServer:
    """What is known of a server that was asked for and not looked at yet."""
    return ObservedServer(
        port=spec.port,
        model_id=spec.model_id,
        instance=spec.instance,
        spec_hash=spec.hash,
        state=ServerState.STARTING,
        host=spec.host,
    )


class ServerBackend(Protocol):
    """Runs servers. `processes` does it with children, `systemd` with transient units.

    All of it is called from the event loop. A listener is called for each change of state, in
    order, and must not block.
    """

    problem: str  # why changes are not seen at present; "" while they are
    has_model_users: bool  # each server runs as a user of its own, which nobody else is

    async def open(self) -> None:
        """Begin to observe. After it, `observed` is complete."""

    async def close(self) -> None:
        """Let go. The embedded launcher stops its children; with systemd they run on."""

    def subscribe(self, listener: Callable[[ObservedServer], None]) -> Callable[[], None]:
        """Hear of each change from now on; the result ends it."""

    def observed(self) -> dict[int, ObservedServer]:
        """Port -> server, of all it knows, stopped and failed ones too. A copy; does not block."""

    async def start(self, spec: ServerSpec) -> None:
        """Begin to run this server. Returns once the process is made, not when it is ready.

        A server on the same port is replaced. What goes wrong shows as state `failed` with a
        reason; raises MagidError only if it cannot even try.
        """

    async def stop(self, port: int) -> None:
        """End the server; returns when its process is gone. Idempotent."""

    async def settled(self, port: int) -> ObservedServer:
        """Wait until the server is ready, failed or stopped."""

    async def command(self, spec: ServerSpec) -> list[str]:
        """The argv this server would be run with; raises LlamaServerMissing."""

    def api_key(self, port: int) -> str | None:
        """The key this server wants, if it has one."""

    async def figures(self) -> dict[int, ServerFigures]:
        """Port -> what it uses now. Must not block the event loop."""

    async def logs(self, port: int, *, lines: int, after: str | None = None) -> list[LogLine]:
        """The last `lines` lines, oldest first; with `after`, only those behind that cursor."""

    async def wait_logs(self, port: int, after: str | None) -> None:
        """Return when there is a line behind `after`."""
