"""`magid`: the composition root. Reads the configuration; creates, runs and stops the parts."""

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import sdnotify
import uvloop
from msgspec import Struct

from magid import __version__
from magid.api import page, sockets, start_failure
from magid.api.app import make_app
from magid.api.context import Context
from magid.api.events import Feed
from magid.api.protocol import Listening, listen
from magid.api.tls import Certificate
from magid.auth import token_store
from magid.auth.token_store import TokenStore
from magid.catalog.profile_store import ProfileDir
from magid.config import loading as config
from magid.config.loading import Effective
from magid.config.settings import Config
from magid.control.after_changes import after_scans
from magid.control.daemon import Daemon
from magid.control.snapshot import status_line
from magid.control.state import Change
from magid.discovery.scanner import Scanner
from magid.discovery.tiers import Thresholds
from magid.errors import CannotStart, CannotWrite, InvalidConfig, MagidError, TokensUnusable
from magid.files import document, lock
from magid.gateway.dispatcher import Dispatcher
from magid.library.downloads.owner import Downloads
from magid.library.downloads.starting import ChildDownloads, UnitDownloads
from magid.llama.installed_program import InstalledProgram
from magid.log import setup
from magid.log.events import Event, about
from magid.log.setup import OwnLog
from magid.servers import choose
from magid.systemd import notify
from magid.systemd.notify import Notify

if TYPE_CHECKING:
    import argparse

# With the default of 5 ms, threads that read model files would delay the event loop by 5 ms a turn.
SWITCH_INTERVAL_S = 0.001
EX_CONFIG = 78  # sysexits.h: what systemd's RestartPreventExitStatus is set to


log = logging.getLogger("magid")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs magid and returns its exit status.

    0, 1 for a failure that may pass, 2 for wrong usage, 78 for one that an administrator must mend.
    """
    words = sys.argv[1:] if arguments is None else arguments
    flags = vars(parser().parse_args(words)) if words else {}  # the service has none
    check = flags.pop("check", False)
    given = {key: text for key, text in flags.items() if text is not None}
    if check:
        return _check(given)
    passed: list[socket.socket] = []
    try:
        passed = sockets.handed_over(os.environ)
        effective = config.load(given, os.environ)
        choose.check(effective.config)
        if not passed:
            _check_exposure(effective.config)
        own_log = setup.set_up(effective.config.log_level)
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        _raise_descriptor_limit()
        return uvloop.run(serve(effective, own_log, passed))
    except MagidError as error:
        return _fail(error, passed)


def _fail(error: MagidError, passed: Sequence[socket.socket]) -> int:
    """Says why magid cannot start, to systemd and to waiting clients too; the exit status."""
    status = exit_status(error)
    sys.stderr.write(f"magid: {error.message}\n")
    sys.stderr.flush()
    sdnotify.SystemdNotifier().notify(f"STATUS={error.message}")
    told = CannotStart(error.message, cause=error.code)
    asyncio.run(start_failure.answer(passed, told, will_retry=status != EX_CONFIG))
    return status


# Of a CannotWrite. None: the registry is of a newer format.
_LASTING = (None, "EACCES", "EPERM", "EROFS", "ENOENT", "EEXIST", "ENOTDIR", "EISDIR", "ELOOP")


def exit_status(error: MagidError) -> int:
    """Returns 78 for an error that another start would meet again, else 1. Pure."""
    is_lasting = isinstance(error, CannotWrite) and error.details.get("errno") in _LASTING
    return EX_CONFIG if isinstance(error, InvalidConfig) or is_lasting else 1


def _check(given: dict[str, str]) -> int:
    from magid.startup.check import check  # late: a start does without it

    return check(given, os.environ, EX_CONFIG)


def _check_exposure(settings: Config) -> None:
    """Checks exposure as a start without socket activation does. Raises InvalidConfig."""
    try:
        has_token = bool(token_store.read(settings.state_dir / token_store.NAME))
    except TokensUnusable:
        has_token = True  # an unusable file admits no caller, or this user may not read it
    sockets.check_exposure(settings.addresses, has_token=has_token)


def parser() -> "argparse.ArgumentParser":
    """Returns the parser with all options; the manual is generated from it too."""
    import argparse  # late: the service has no arguments

    root = argparse.ArgumentParser(
        prog="magid", description="Runs GGUF models as services and answers for them over REST."
    )
    root.add_argument("--version", action="version", version=f"magid {__version__}")
    root.add_argument(
        "--check",
        action="store_true",
        help="print the configuration in force, or all that keeps magid from starting, and end",
    )
    root.add_argument("--config", metavar="FILE", help="read this file, not /etc/magi/magid.yaml")
    for setting in config.settings():
        if setting.flag:
            root.add_argument(
                setting.flag, dest=setting.key, metavar="VALUE", help=setting.description
            )
    return root


def _raise_descriptor_limit() -> None:
    """Raises the soft limit on descriptors to the hard limit.

    The usual 1024 is for programs that use select(), and a stream takes two. If the limit cannot be
    raised, magid keeps the present one.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


# -- the daemon ------------------------------------------------------------------------------


class _Started(Struct, frozen=True):
    """A magid that answers requests."""

    context: Context
    program: InstalledProgram
    taken: sockets.Taken
    certificate: Certificate | None
    feed: Feed
    listening: Listening


async def serve(effective: Effective, own_log: OwnLog, passed: Sequence[socket.socket] = ()) -> int:
    """Runs the daemon until SIGTERM or SIGINT. The API does not wait for the starts of servers.

    `passed` are the sockets that systemd has passed.
    """
    stop, hurry, reload = _on_signals()
    drain_s = effective.config.drain_timeout
    async with contextlib.AsyncExitStack() as held:
        started = await _start(held, effective, own_log, passed)
        context, certificate = started.context, started.certificate
        notifier = sdnotify.SystemdNotifier()
        notifier.notify("READY=1")
        # Everything allocated so far is permanent: keep it out of garbage collections. The
        # installed program disables the collector until here, because scanning all imports takes a
        # tenth of a start.
        gc.freeze()
        gc.enable()
        context.daemon.subscribe(lambda change: _report(notifier, context.daemon, change))
        interval_s = notify.watchdog_interval_s(os.environ, os.getpid())
        await held.enter_async_context(
            beside(
                notify.keep_alive(notifier.notify, interval_s),
                reload_on(
                    reload, notifier.notify, context.tokens.load, *_reload(certificate),
                    context.daemon.rescan,
                ),
                context.tokens.flush_periodically(),
            )
        )  # fmt: skip
        _say_where(started.taken, certificate)
        gc.freeze()  # what exists now is permanent: keep it out of collections that requests cause
        await stop.wait()
        notifier.notify("STOPPING=1")
        started.program.close()
        await _drain(context, started.feed, started.listening, drain_s, hurry)
        await context.tokens.flush()
    log.info("magid has ended", extra=about(Event.ENDED))
    return 0


async def _start(
    held: contextlib.AsyncExitStack,
    effective: Effective,
    own_log: OwnLog,
    passed: Sequence[socket.socket],
) -> _Started:
    """Returns when requests are answered. Raises MagidError, whatever it is that failed."""
    settings = effective.config
    try:
        held.callback(lock.lock(settings.state_dir).release)
        program = installed_program(settings)
        context = compose(settings, own_log, program)
        await context.tokens.load()
        taken = sockets.take(settings.addresses, passed, has_token=context.tokens.requires_token)
        held.callback(taken.close)
        context.not_listening = taken.missing
        context.configuration = effective
        context.addresses = tuple(taken.addresses)
        certificate = _certificate(settings)
        held.push_async_callback(context.daemon.close)
        held.callback(program.close)
        await context.daemon.open()
        context.downloads.open()
        held.push_async_callback(context.downloads.close)
        context.gateway.open()
        held.push_async_callback(context.gateway.close)
        feed = Feed(context)
        listening = await listen(
            make_app(context, addresses=taken.addresses),
            taken.sockets,
            certificate.context if certificate else None,
        )
    except MagidError:
        raise
    except Exception as error:
        log.exception("the start failed with an internal error")
        raise CannotStart(
            f"cannot start: {type(error).__name__}: {error}; the log has its trace: "
            "journalctl -u magid"
        ) from error
    return _Started(context, program, taken, certificate, feed, listening)


def _certificate(settings: Config) -> Certificate | None:
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return Certificate(settings.tls_cert, settings.tls_key)


def _reload(certificate: Certificate | None) -> list[Callable[[], Awaitable[None]]]:
    return [lambda: asyncio.to_thread(certificate.reload)] if certificate else []


def _say_where(taken: sockets.Taken, certificate: Certificate | None) -> None:
    how = " with TLS on TCP" if certificate else ""
    names = ", ".join(taken.names)
    for problem in taken.missing:
        log.error("%s", problem)
    log.info("magid %s answers on %s%s", __version__, names, how, extra=about(Event.STARTED))
    if taken.exposed and certificate is None:
        log.warning(
            "%s can be reached from other machines, and what goes over it, tokens too, can be read "
            "on the way; set tls_cert and tls_key, or put a TLS proxy in front of it",
            ", ".join(taken.exposed),
        )


def installed_program(settings: Config) -> InstalledProgram:
    configured = settings.llama_server_path
    return InstalledProgram(
        str(configured) if configured else None,
        os.environ.get("PATH", ""),
        engines_dir=settings.engines_dir,
    )


def compose(settings: Config, own_log: OwnLog, program: InstalledProgram) -> Context:
    """Creates and connects all parts; starts none."""
    thresholds = settings.tier_thresholds
    daemon = Daemon(
        config=settings,
        store=document.Store(settings.registry_path),
        profiles=ProfileDir(settings.profiles_dir, settings.shipped_profiles_dir),
        scanner=Scanner(
            settings.model_paths,
            Thresholds(thresholds.powerful_min, thresholds.fast_max),
            settings.state_dir / "header_cache.json",
        ),
        launcher=choose.build(settings, program, lambda: daemon.snapshot.active.name),
        program=program,
    )
    tokens = TokenStore(settings.state_dir / token_store.NAME)
    shown = page.read(settings.page_dir)
    return Context(
        daemon,
        program,
        Dispatcher(daemon),
        tokens,
        downloads(settings, daemon),
        own_log,
        page=shown,
    )


def downloads(settings: Config, daemon: Daemon) -> Downloads:
    has_units = choose.check(settings) == "systemd"
    starter = UnitDownloads() if has_units else ChildDownloads(settings)
    made = Downloads(settings, starter, daemon.rescan, lambda: daemon.launcher.boot)
    daemon.subscribe(after_scans(lambda: daemon.snapshot.disk, made.look_again))
    return made


def _on_signals() -> tuple[asyncio.Event, asyncio.Event, asyncio.Event]:
    """Returns three events: stop, hurry, reload.

    The first SIGTERM or SIGINT sets stop, a second one hurry (do not wait), SIGHUP reload.
    """
    stop, hurry, reload = asyncio.Event(), asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: (hurry if stop.is_set() else stop).set())
    return stop, hurry, reload


def _report(notifier: sdnotify.SystemdNotifier, daemon: Daemon, _change: Change) -> None:
    notifier.notify("STATUS=" + status_line(daemon.phase, daemon.snapshot, daemon.observed()))


async def _drain(
    context: Context, feed: Feed, listening: Listening, limit_s: float, hurry: asyncio.Event
) -> None:
    """Stops accepting and waits for open requests to end: at most `limit_s`, or until `hurry`."""
    context.daemon.drain()
    listening.close()
    feed.close()
    ends = [asyncio.create_task(listening.ended()), asyncio.create_task(hurry.wait())]
    done, _ = await asyncio.wait(ends, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
    if ends[0] not in done:
        log.warning("ending with requests still under way")
    for task in ends:
        task.cancel()


async def reload_on(
    asked: asyncio.Event, notify: Notify, *work: Callable[[], Awaitable[object]]
) -> None:
    """Does the work each time `asked` is set, and notifies systemd of its begin and end.

    A failure is logged, and the remaining work is still done. systemd needs the time at which a
    reload began, to distinguish it from a later one.
    """
    while True:
        await asked.wait()
        asked.clear()
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        log.info(
            "reloading models, profiles, tokens and the certificate; magid.yaml is read at a "
            "start only",
            extra=about(Event.RELOADING),
        )
        for each in work:
            try:
                await each()
            except MagidError as error:
                log.error("%s", error.message, extra=about(Event.RELOAD_FAILED, error=error.code))
            except Exception:
                log.exception("the reload failed with an internal error")
        notify("READY=1")


@asynccontextmanager
async def beside(*work: Coroutine[object, object, None]) -> AsyncIterator[None]:
    """Runs the coroutines while the block runs; cancels them at its end and waits for them."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    sys.exit(main())
