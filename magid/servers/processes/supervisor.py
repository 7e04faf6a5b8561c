"""Supervises one server without systemd: restarts its process until it is stopped or given up.

Each server is owned by one task that alone starts, watches and stops its process; other code only
sends it requests. So a caller that goes away in the middle of a start or stop changes nothing.
Servers read their API keys from `KeyFiles`, so that no key appears in an argv.
"""

import asyncio
import logging
import os
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

from msgspec import Struct
from msgspec.structs import replace

from magid.errors import InvalidInput, MagidError, ServerFailed, ServerUnreachable
from magid.host.ports import HostPort, PortOwner, port_taken
from magid.host.workers import LATE_S
from magid.llama.arguments import child_environment, server_argv
from magid.llama.client import Health, says_loaded, why_foreign
from magid.llama.log_errors import LastErrors, exit_reason
from magid.llama.placement import Placement
from magid.llama.program import ProgramOf
from magid.llama.spec import ServerSpec
from magid.log.buffer import LogRing
from magid.servers.backend import ObservedServer, ServerState, initial_state, restarting_in
from magid.servers.processes.child import Child
from magid.servers.processes.death_signal import are_usable
from magid.servers.processes.key_files import KeyFiles
from magid.servers.processes.readiness import Pace, TooLate, becomes_ready
from magid.wording.counts import counted

log = logging.getLogger(__name__)

# Between two checks whether a child is ready. What it prints tells sooner, and each check takes
# processor time from the load.
_LEAST_PAUSE_S: Final = 0.02


class RestartPolicy(Struct, frozen=True):
    """When a server that ended by itself is restarted; delays in seconds.

    The n-th restart in a row waits `first_delay_s * factor ** (n - 1)`, `max_delay_s` at most;
    after `limit` restarts the server is given up. `window_s` of being ready ends the row.
    """

    first_delay_s: float = 1.0
    factor: float = 2.0
    max_delay_s: float = 60.0
    limit: int = 5
    window_s: float = 600.0

    def delay_s(self, nth: int) -> float:
        """Returns the delay before the nth restart in a row; n begins with 1."""
        return min(self.first_delay_s * self.factor ** min(nth - 1, 64), self.max_delay_s)


class Timing(Struct, frozen=True):
    """Timeouts and intervals of the process backend, in seconds."""

    max_startup_s: float  # from the start of a process to ready
    check_interval_s: float  # longest pause between readiness checks
    stop_timeout_s: float  # from SIGTERM to SIGKILL


class Dependencies(Struct, frozen=True):
    """What a ServerProcess needs from its backend."""

    keys: KeyFiles
    program: ProgramOf
    owners_of: Callable[[HostPort], Sequence[PortOwner]]  # blocks: called in a thread
    is_held_by: Callable[[HostPort, int], bool]
    can_bind: Callable[[HostPort], bool]  # blocks: called in a thread
    timing: Timing
    restart: RestartPolicy
    announce: Callable[["ServerProcess"], None]

    async def argv_of(self, spec: ServerSpec, placement: Placement | None = None) -> list[str]:
        """Returns the argv.

        Raises LlamaServerMissing, and InvalidInput if the machine cannot provide what the spec
        needs.
        """
        if spec.memory_max is not None or spec.cpu_quota is not None:
            raise InvalidInput(
                "cannot limit the memory or processor time of a child process: that takes systemd; "
                "put memoryMax and cpuQuota back to null, or install magid as a service",
                field="memoryMax" if spec.memory_max is not None else "cpuQuota",
            )
        program = await self.program(spec.engine)
        key_file = self.keys.path(spec.port)
        return server_argv(spec, str(program.path), str(key_file), program.flags, placement)


class ServerProcess:
    """One spec on one port. Call `begin` once; `ask_to_stop` and `gone` at any time, repeatedly.

    A predecessor on the same port must have been asked to stop; this server waits for its end
    first.
    """

    def __init__(
        self,
        spec: ServerSpec,
        ring: LogRing,
        surroundings: Dependencies,
        predecessor: "ServerProcess | None",
        placement: Placement | None = None,
    ) -> None:
        self.spec = spec
        self.key: str | None = None  # of the current process
        self.made = asyncio.Event()  # the process exists, or it is certain that it never will
        self.observed = initial_state(spec, placement)
        self._announced: ObservedServer | None = None
        self._around = surroundings
        self._endpoint = HostPort(spec.host, spec.port)
        self._ring = ring
        self._predecessor = predecessor
        self._errors = LastErrors()
        self._loaded = asyncio.Event()  # it has printed that its model is loaded
        self._child: Child | None = None
        self._task: asyncio.Task[None] | None = None
        self._running = False  # in `_outcome`, which a stop interrupts
        self._stop_requested = False
        self._ready_since: float | None = None  # monotonic: the wall clock can jump

    def begin(self) -> None:
        self._show(ServerState.STARTING)
        self._task = asyncio.create_task(self._live(), name=self.spec.unit)

    def ask_to_stop(self) -> None:
        """Requests a stop; returns at once.

        The task is interrupted once, and only while it works.
        """
        if self._running and not self._stop_requested and self._task:
            self._task.cancel()
        self._stop_requested = True

    async def gone(self) -> None:
        """Waits until the process is gone and will not be restarted."""
        if self._task:
            await asyncio.wait([self._task])

    def forget_failure(self) -> None:
        """Resets a failed server to stopped. Call after `gone`."""
        self._show(ServerState.STOPPED)

    async def _live(self) -> None:
        try:
            state, reason = await self._outcome()
            if self._child:
                self._show(ServerState.STOPPING, reason)
                await self._child.end(self._around.timing.stop_timeout_s)
            await self._predecessor_gone()
            self._forget_process()
            if self._stop_requested:
                state, reason = ServerState.STOPPED, ""
            self._show(state, reason)
        finally:
            self.made.set()

    async def _outcome(self) -> tuple[ServerState, str]:
        """Runs until the server is stopped or given up; returns the final state and reason."""
        if self._stop_requested:
            return ServerState.STOPPED, ""
        self._running = True
        try:
            await self._predecessor_gone()
            await self._keep_running()
        except asyncio.CancelledError:
            return ServerState.STOPPED, ""
        except MagidError as error:
            return ServerState.FAILED, error.message
        except Exception as error:
            log.exception("cannot run %s", self.spec.unit)
            return ServerState.FAILED, f"cannot run it, because of an internal error: {error!r}"
        finally:
            self._running = False

    async def _predecessor_gone(self) -> None:
        if self._predecessor:
            await self._predecessor.gone()
            self._predecessor = None

    async def _keep_running(self) -> NoReturn:
        """Restarts the process whenever it ends; raises ServerFailed when that is given up."""
        policy, in_a_row = self._around.restart, 0
        while True:
            reason = await self._run_once()
            in_a_row = 1 if self._was_well() else in_a_row + 1
            if in_a_row > policy.limit:
                raise ServerFailed(f"{reason}; given up after {counted(policy.limit, 'restart')}")
            delay_s = policy.delay_s(in_a_row)
            self._forget_process()
            self._show(ServerState.BACKOFF, f"{reason}{restarting_in(delay_s)}")
            await asyncio.sleep(delay_s)
            self.observed = replace(self.observed, restarts=self.observed.restarts + 1)
            self._show(ServerState.STARTING)

    def _was_well(self) -> bool:
        since = self._ready_since
        return since is not None and time.monotonic() - since >= self._around.restart.window_s

    async def _run_once(self) -> str:
        """Runs one process from start to exit; returns why it ended.

        Raises MagidError if it cannot run.
        """
        self._ready_since = None
        child = await self._make_child()
        ready = await self._becomes_ready(child)
        if ready:
            self._ready_since = time.monotonic()
            self.observed = replace(self.observed, ready_at=time.time())
            self._show(ServerState.READY)
        await child.wait()
        await child.end(0)
        return exit_reason(child.returncode or 0, self._errors, was_ready=ready)

    async def _make_child(self) -> Child:
        placement, files = self.observed.placement, files_of(self.spec)
        argv, usable = await self._looked_at(placement, files)
        self.key = self._around.keys.write_new(self.spec.port)
        self._errors = LastErrors()
        try:
            self._child = await Child.spawn(
                argv,
                child_environment(os.environ, placement),
                self._on_line,
                files=files,
                are_usable=usable,
            )
        except OSError as error:
            raise ServerFailed(f"cannot start a process: {error.strerror}") from error
        await self._check_files(self._child)
        self.observed = replace(
            self.observed,
            pid=self._child.pid,
            started_at=self._child.started_at,
            invocation_id=uuid.uuid4().hex,
            uid=os.geteuid(),
        )
        self._show(ServerState.STARTING)
        self.made.set()
        return self._child

    async def _looked_at(
        self, placement: Placement | None, files: Sequence[str]
    ) -> tuple[list[str], bool]:
        """Returns the argv, and whether the files are usable; threads look, all at once.

        Raises MagidError if the port is taken, or there is no argv.
        """
        free, argv, usable = await asyncio.gather(
            self._check_free(),
            self._around.argv_of(self.spec, placement),
            are_usable(files),
            return_exceptions=True,
        )
        for failure in (free, argv, usable):
            if isinstance(failure, BaseException):
                raise failure
        assert isinstance(argv, list)
        return argv, usable is True

    async def _check_files(self, child: Child) -> None:
        """Waits until the program runs. Raises ServerFailed if a file of it cannot be used."""
        try:
            problem = await child.problem_of_files(LATE_S)
        except TimeoutError:
            problem = (0, "open", "its file system does not answer")
        if problem is not None:
            await child.end(0)
            self._child = None
            raise ServerFailed(why_unusable(self.spec, *problem))

    def _on_line(self, text: str) -> None:
        self._ring.add(text, run=self.observed.invocation_id or "")
        self._errors.add(text)
        if says_loaded(text):
            self._loaded.set()

    async def _becomes_ready(self, child: Child) -> bool:
        """Waits until the child is ready; returns False if the process ended first.

        Raises ServerFailed if it takes too long or if another program answers in its place.
        """
        timing = self._around.timing
        try:
            return await becomes_ready(
                self._endpoint,
                Pace(timing.check_interval_s, timing.max_startup_s, _LEAST_PAUSE_S),
                lambda seconds: child.wait_or(self._loaded, seconds),
                lambda: self._is_confirmed(child),
                lambda: self._show(ServerState.LOADING),
            )
        except TooLate as late:
            raise ServerFailed(
                f"was not ready within {timing.max_startup_s:g} s: {_LAST_SEEN[late.health]}"
            ) from None

    async def _is_confirmed(self, child: Child) -> bool:
        """Returns whether our child is the one that answers. False: it went away; check again."""
        if self.key is None or not await self._is_alone(child):
            return False
        try:
            why = await why_foreign(self._endpoint, self.key, self.spec.model_id, uid=os.geteuid())
        except ServerUnreachable:
            return False
        if child.has_exited:
            return False
        if why:
            raise ServerFailed(f"another program answers on port {self.spec.port}: {why}")
        return await self._is_alone(child) and not child.has_exited

    async def _check_free(self) -> None:
        """Raises ServerFailed if another process listens on our port before we do."""
        if not await asyncio.to_thread(self._around.can_bind, self._endpoint):
            owners = await asyncio.to_thread(self._around.owners_of, self._endpoint)
            raise ServerFailed(port_taken(self._endpoint, owners))

    async def _is_alone(self, child: Child) -> bool:
        """Returns whether our child alone holds the port.

        Checked before the key is sent to the process that answers there. Raises ServerFailed if
        another process holds the port or shares it (SO_REUSEPORT lets the same user).
        """
        if self._around.is_held_by(self._endpoint, child.pid):
            return True
        owners = await asyncio.to_thread(self._around.owners_of, self._endpoint)
        strangers = [owner for owner in owners if owner.session != child.pid]
        if strangers and not child.has_exited:
            raise ServerFailed(port_taken(self._endpoint, strangers))
        return bool(owners) and not strangers

    def _forget_process(self) -> None:
        self.key = self._child = None
        self._around.keys.remove(self.spec.port)
        self.observed = replace(self.observed, pid=None, started_at=None, ready_at=None)

    def _show(self, state: ServerState, reason: str = "") -> None:
        self.observed = replace(self.observed, state=state, reason=reason)
        if self.observed != self._announced:
            self._announced = self.observed
            self._around.announce(self)


_LAST_SEEN = {
    Health.UNREACHABLE: "its port does not answer",
    Health.LOADING: "it was still loading the model; a larger MAX_STARTUP_TIME gives it more time",
    Health.ERROR: "/health answers with an error",
    Health.OK: "it went away while it was being checked",
}


def files_of(spec: ServerSpec) -> tuple[str, ...]:
    """Returns the files that a server needs: the model's first, and those beside it."""
    return tuple(path for _, path in _files(spec))


def _files(spec: ServerSpec) -> list[tuple[str, str]]:
    """Returns the files with what they are."""
    one = (("model", spec.model_path), ("projector", spec.mmproj_path), ("draft", spec.draft_path))
    found = [(what, path) for what, path in one if path is not None]
    return [*found, *(("adapter", path) for path in spec.lora_paths)]


def why_unusable(spec: ServerSpec, number: int, verb: str, why: str) -> str:
    """Returns the message for the file of `files_of` with this number."""
    what, path = _files(spec)[number]
    return f"cannot {verb} the {what} file {path}: {why}"
