"""Checks the files that magid would read and write, with the rights of this user. Read-only."""

import errno
import grp
import os
import pwd
import shlex
from collections.abc import Iterator
from pathlib import Path

from magid.api.tls import Certificate
from magid.auth import token_store
from magid.catalog import registry
from magid.config.settings import Config
from magid.doctor.facts import ServiceUnit
from magid.errors import InvalidConfig, TokensUnusable
from magid.files import document
from magid.standalone import state_owners
from magid.startup.problem import Problem, problem_of

_ADOPTED = {
    Path(state_owners.STATE): state_owners.STATE_FILES,
    Path(state_owners.PROFILES): state_owners.PROFILE_FILES,
}


def problems(settings: Config, *, is_service: bool) -> Iterator[Problem]:
    """Yields files that this user cannot read or write, except those that a start repairs."""
    state = settings.state_dir
    if is_service and state in _ADOPTED and not _belongs_to_us(state):
        return  # the next start gives it to magi, with its content
    found = list(_folder(state, "magid keeps its state there"))
    yield from found
    if not found and state.is_dir():
        yield from _state_files(settings, is_service=is_service)
    if settings.profiles_dir.is_dir() and not (is_service and settings.profiles_dir in _ADOPTED):
        yield from _folder(settings.profiles_dir, "the API writes profiles there")
    yield from _profiles(settings, is_service=is_service)
    yield from _certificate(settings)


def outside_sandbox(settings: Config, unit: ServiceUnit) -> Iterator[Problem]:
    """Yields folders that magid writes to and the sandbox of its service makes read-only. Pure."""
    if unit.shown.get("ProtectSystem") != "strict":
        return
    writable = [Path(path.lstrip("-+")) for path in unit.shown.get("ReadWritePaths", "").split()]
    folders = (settings.state_dir, settings.registry_path.parent, settings.profiles_dir)
    outside = [one for one in folders if not any(map(one.is_relative_to, writable))]
    if outside:
        names = " ".join(map(str, dict.fromkeys(outside)))
        drop_in = f"/etc/systemd/system/{unit.name}.d"
        yield Problem(
            f"cannot write to {names}",
            f"the sandbox of {unit.name} has other folders only (ReadWritePaths=)",
            run=(
                f"mkdir -p {drop_in}",
                f"echo {shlex.quote('[Service]')} >{drop_in}/folders.conf",
                f"echo {shlex.quote(f'ReadWritePaths={names}')} >>{drop_in}/folders.conf",
                "systemctl daemon-reload",
            ),
        )


def _state_files(settings: Config, *, is_service: bool) -> Iterator[Problem]:
    lock, tokens = settings.state_dir / "magid.lock", settings.state_dir / token_store.NAME
    if not _is_adopted(lock, is_service):
        yield from _file(lock, os.R_OK | os.W_OK)
    kept = settings.registry_path
    if kept.parent != settings.state_dir:
        yield from _folder(kept.parent, "the registry is kept there")
    if not _is_adopted(kept, is_service):
        unread = list(_file(kept, os.R_OK))
        why = "" if unread else document.why_unusable(kept, registry.parse)
        yield from unread
        if why.startswith("cannot "):  # else an older copy is used
            yield problem_of(why)
    if not _is_adopted(tokens, is_service):
        unread = list(_file(tokens, os.R_OK))
        yield from unread
        if not unread:
            try:
                token_store.read(tokens)
            except TokensUnusable as error:
                yield problem_of(error.message)


def _profiles(settings: Config, *, is_service: bool) -> Iterator[Problem]:
    try:
        found = sorted(settings.profiles_dir.glob("*.yaml"))
    except OSError:
        return
    for path in found:
        if not _is_adopted(path, is_service):
            yield from _file(path, os.R_OK)


def _is_adopted(path: Path, is_service: bool) -> bool:
    """Whether the next start of the service gives this file to magi."""
    names = _ADOPTED.get(path.parent)
    is_ours = names is not None and names.fullmatch(path.name) is not None
    regular = path.is_file() and not path.is_symlink()
    return is_service and is_ours and regular and not _belongs_to_us(path)


def _belongs_to_us(path: Path) -> bool:
    try:
        return path.stat().st_uid == os.geteuid()
    except OSError:
        return True


# -- one file or folder --------------------------------------------------------------------------


def _folder(path: Path, why: str) -> Iterator[Problem]:
    """Yields a problem unless the folder can be listed and written, or created."""
    user, group = _us()
    if not os.path.lexists(path):
        above = next(one for one in path.parents if os.path.lexists(one))
        if not os.access(above, os.W_OK | os.X_OK):
            yield Problem(
                f"cannot make {path}", f"{why}, and {user} may not write to {above}",
                run=(f"install -d -m 750 -o {user} -g {group} {shlex.quote(str(path))}",),
            )  # fmt: skip
    elif not path.is_dir():
        yield Problem(f"cannot use {path}", f"{why}, and it is no folder", run=_set_aside(path))
    elif not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        yield _refused(path, "cannot write to", 0o700)


def _file(path: Path, mode: int) -> Iterator[Problem]:
    """Yields a problem if the file exists and cannot be opened."""
    if os.path.lexists(path) and not path.exists():
        yield Problem(
            f"cannot read {path}", "it is a link that leads nowhere", run=_set_aside(path)
        )
    elif path.is_dir():
        yield Problem(f"cannot use {path}", "it is a folder", run=_set_aside(path))
    elif path.exists() and not os.access(path, mode):
        yield _refused(path, "cannot write" if mode & os.W_OK else "cannot read", 0o600)


def _set_aside(path: Path) -> tuple[str, ...]:
    quoted = shlex.quote(str(path))
    return (f"mv {quoted} {quoted}.off",)


def _refused(path: Path, what: str, mode: int) -> Problem:
    """Returns why an existing file cannot be used: its owner, its mode, or its disk."""
    user, group = _us()
    quoted = shlex.quote(str(path))
    status = path.stat()
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return Problem(f"{what} {path}", "its file system is read-only",
                       run=(f"findmnt -T {quoted}", f"mount -o remount,rw {quoted}"))  # fmt: skip
    if status.st_uid != os.geteuid():
        why = f"it belongs to {_name_of(status.st_uid)}, and magid runs as {user}"
        return Problem(f"{what} {path}", why, run=(f"chown {user}:{group} {quoted}",))
    return Problem(f"{what} {path}", f"its mode is {status.st_mode & 0o7777:04o}",
                   run=(f"chmod u+{'rwX' if mode == 0o700 else 'rw'} {quoted}",))  # fmt: skip


def _us() -> tuple[str, str]:
    try:
        group = grp.getgrgid(os.getegid()).gr_name
    except KeyError:
        group = str(os.getegid())
    return _name_of(os.geteuid()), group


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


# -- TLS -----------------------------------------------------------------------------------------


def _certificate(settings: Config) -> Iterator[Problem]:
    cert, key = settings.tls_cert, settings.tls_key
    if cert is None or key is None:
        return
    try:
        Certificate(cert, key)
    except InvalidConfig as error:
        refused = [path for path in (cert, key) if _is_forbidden(path)]
        yield _unreadable(cert, key, refused) if refused else problem_of(error.message)


def _unreadable(cert: Path, key: Path, refused: list[Path]) -> Problem:
    """Returns commands that let magid's group read the files, or copy them to where it can."""
    user, group = _us()
    what = f"cannot use the certificate {cert} with the key {key}"
    why = f"{user} may not read {' and '.join(map(str, refused))}"
    if all(os.access(path.parent, os.X_OK) for path in refused):
        files = " ".join(shlex.quote(str(path)) for path in refused)
        return Problem(what, why, run=(f"chgrp {group} {files}", f"chmod g+r {files}"))
    files = " ".join(shlex.quote(str(path)) for path in (cert, key))
    return Problem(
        what,
        why,
        do="put copies where it may read them, after each renewal too, and name them in magid.yaml "
        "(tls_cert, tls_key):",
        run=(f"install -m 640 -g {group} {files} /etc/magi/",),
    )


def _is_forbidden(path: Path) -> bool:
    try:
        path.open("rb").close()
    except OSError as error:
        return error.errno in (errno.EACCES, errno.EPERM)
    return False
