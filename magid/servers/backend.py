"""Server states, and the interface between deciding what runs and running it.

Pure data and pure functions: no I/O, no await. Both backends (`processes`, `systemd`) use these
types, and so does the privileged helper, which trusts nothing else.
"""

import math
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Protocol

from msgspec import Struct

from magid.host.usage import ServerFigures
from magid.llama import spec_values
from magid.llama.file_removal import FileIdentity, RemovedFile
from magid.llama.placement import Placement
from magid.llama.spec import ServerSpec
from magid.llama.spec_values import SpecValues
from magid.log.buffer import LogLine
from magid.systemd.unit_names import unit_name


class ServerState(StrEnum):
    """State of one server; `ready` means that it answers /health with 200 and belongs to magid."""

    STOPPED = "stopped"
    STARTING = "starting"  # the process exists, its port does not answer yet
    LOADING = "loading"  # /health answers 503: the model is being loaded
    READY = "ready"
    STOPPING = "stopping"
    FAILED = "failed"  # given up; stays so until a start is requested
    BACKOFF = "backoff"  # ended by itself; will be started again

    @property
    def is_running(self) -> bool:
        """Returns whether a process exists or is about to."""
        return self in _RUNNING

    @property
    def is_loading(self) -> bool:
        """Returns whether it is on its way to ready."""
        return self in (ServerState.STARTING, ServerState.LOADING)

    @property
    def is_settled(self) -> bool:
        """Returns whether the state no longer changes by itself."""
        return self in (ServerState.STOPPED, ServerState.READY, ServerState.FAILED)


_RUNNING = frozenset(
    {ServerState.STARTING, ServerState.LOADING, ServerState.READY, ServerState.STOPPING}
)


# Reasons of a server that was stopped, and not by magid.
BY_SYSTEMCTL = "by systemctl"
WITH_TARGET = "with magi-models.target"


class ObservedServer(Struct, frozen=True):
    """What is known of one server at one moment. Replaced whole, never changed in place."""

    port: int
    model_id: str
    instance: int
    spec_hash: str
    state: ServerState
    reason: str = ""  # of failed, backoff and stopped; for backoff it begins with a verb
    pid: int | None = None
    host: str = "127.0.0.1"
    started_at: float | None = None  # start of the current process, seconds since the epoch
    ready_at: float | None = None
    restarts: int = 0  # automatic restarts since the last requested start
    invocation_id: str | None = None  # one per process start
    uid: int | None = None  # of the user it runs as; None if unknown
    values: SpecValues = ()  # what it was started with, as far as is known
    placement: Placement | None = None  # what magid has decided for its start

    @property
    def place(self) -> Placement | None:
        """Returns where it runs, if magid has decided it: no mere bound of its prompt cache."""
        is_place = self.placement is not None and self.placement.decides_place
        return self.placement if is_place else None

    @property
    def unit(self) -> str:
        return unit_name(self.port)

    @property
    def process(self) -> str:
        """Returns what differs for each process on a port."""
        return f"{self.port}/{self.invocation_id or self.pid}/{self.started_at}"

    @property
    def stopped_by(self) -> str:
        """Returns how a person has stopped it; "" if none did, or it is not known."""
        is_stopped = self.state is ServerState.STOPPED
        return self.reason if is_stopped and self.reason in (BY_SYSTEMCTL, WITH_TARGET) else ""

    @property
    def described(self) -> str:
        """Returns what a sentence says of the unit: "is ready", "crashed (SIGKILL); ..."."""
        if self.state is ServerState.BACKOFF:
            return self.reason or "ended and is being restarted"
        said = "has failed" if self.state is ServerState.FAILED else f"is {self.state}"
        return f"{said}: {self.reason}" if self.reason else said


def restarting_in(seconds: float) -> str:
    """Returns the end of a reason: "; restarting in 15 s". Whole seconds, 1 at least."""
    return f"; restarting in {max(1, math.ceil(seconds))} s"


def initial_state(spec: ServerSpec, placement: Placement | None = None) -> ObservedServer:
    """Returns the state of a server that was requested but not observed yet."""
    return ObservedServer(
        port=spec.port,
        model_id=spec.model_id,
        instance=spec.instance,
        spec_hash=spec.hash,
        state=ServerState.STARTING,
        host=spec.host,
        values=spec_values.of_spec(spec),
        placement=placement,
    )


class ServerBackend(Protocol):
    """Runs servers: `processes` as children, `systemd` as transient units.

    All methods are called from the event loop. A listener is called for each change of state, in
    order, and must not block.
    """

    @property
    def problem(self) -> str:
        """Why changes are not observed at present; empty while they are."""

    @property
    def masked(self) -> frozenset[str]:
        """Those of magid's own units that an administrator has masked."""

    has_model_users: bool  # each server runs as a user of its own, shared with nothing else

    @property
    def boot(self) -> str:
        """Identifies the boot; known once the backend is open. Another boot's servers are gone.

        With systemd it is the machine's. Child processes end with magid, so each start is a boot.
        """

    async def open(self) -> None:
        """Begins to observe. When it returns, `observed` is complete."""

    async def close(self) -> None:
        """Stops observing.

        The process backend stops its children; with systemd the servers run on.
        """

    def subscribe(self, listener: Callable[[ObservedServer], None]) -> Callable[[], None]:
        """Calls `listener` for each change from now on; the result unsubscribes."""

    def observed(self) -> dict[int, ObservedServer]:
        """Returns port -> server, including stopped and failed ones. A copy; does not block."""

    async def start(self, spec: ServerSpec, placement: Placement | None = None) -> None:
        """Starts this server, in this place. Returns once the process exists, not when it is ready.

        Replaces a server on the same port. A failure shows as state `failed` with a reason; raises
        MagidError only if the start cannot even be tried.
        """

    async def stop(self, port: int) -> None:
        """Stops the server; returns when its process is gone. Idempotent."""

    async def settled(self, port: int) -> ObservedServer:
        """Waits until the server is ready, failed or stopped."""

    async def list_devices(self, engine: str | None = None) -> str:
        """Returns what llama-server prints of its devices, run as a server is: seconds at most.

        `engine` is as in a server's settings. Raises MagidError if it cannot be run, or does not
        end in time.
        """

    async def predict_memory(
        self, spec: ServerSpec, placement: Placement | None = None, *, for_start: bool = False
    ) -> str:
        """Returns what `standalone/predict_memory.py` prints about this server: seconds at most.

        llama-server is run as this server would be, and ended before it reads the weights. It
        yields to all other work, unless a start waits for it (`for_start`). Calls must not overlap;
        one that was cancelled is over. Raises MagidError if it cannot be run, or does not end in
        time.
        """

    async def remove_files(self, root: str, files: Sequence[FileIdentity]) -> list[RemovedFile]:
        """Removes these files below the library `root`, if they are still the same ones.

        Follows no link. A file that cannot be removed is a problem of its own in the answer. Raises
        MagidError if nothing could be tried.
        """

    async def command(self, spec: ServerSpec, placement: Placement | None = None) -> list[str]:
        """Returns the argv this server would be run with. Raises LlamaServerMissing."""

    def api_key(self, port: int) -> str | None:
        """Returns the API key of this server, if it has one."""

    async def figures(self) -> dict[int, ServerFigures]:
        """Returns port -> current resource usage. Must not block the event loop."""

    async def host_memory(self) -> dict[int, int]:
        """Returns port -> memory that the server holds beside files, in bytes, where it is known.

        Asked at each decision, so it takes little. Must not block the event loop.
        """

    async def logs(self, port: int, *, lines: int, after: str | None = None) -> list[LogLine]:
        """Returns the last `lines` lines, oldest first.

        With `after`, only lines behind that cursor.
        """

    async def wait_logs(self, port: int, after: str | None) -> None:
        """Returns when there is a line behind `after`."""
