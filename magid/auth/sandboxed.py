"""Refuses connections that come from a model's sandbox.

A model's server needs loopback to serve requests, so it can reach magid's port too. A hostile model
or request could make it call magid, so no route is open to it. For each new connection, magid
queries the kernel for the user at the other end, and systemd for the users of models. Without
systemd, models run as magid's own user, who could change magid's files anyway.
"""

import re
from asyncio import BaseTransport
from pathlib import Path

from magid.auth.peers import uid_of_peer
from magid.errors import NotAllowed
from magid.host.ports import far_ends

USERS = Path("/run/systemd/dynamic-uid")  # of DynamicUser=; "direct:UID" names one
_MODEL = re.compile(r"llama-[0-9]{1,5}")  # as `sandbox` names them


def is_models(uid: int, users: Path = USERS) -> bool:
    """Whether this user currently runs a model. Reads a link on a tmpfs: 2 us."""
    try:
        return _MODEL.fullmatch(str((users / f"direct:{uid}").readlink())) is not None
    except OSError:
        return False


def comes_from_model(transport: BaseTransport, users: Path = USERS) -> bool:
    """Whether a model's process made this connection, or has already closed it.

    Call it when the connection is new: the kernel forgets the user of a closed one. Refusing those
    is harmless, because no program reads the answer.
    """
    here = transport.get_extra_info("sockname")
    if not isinstance(here, tuple):
        return is_models(uid_of_peer(transport), users)
    there = transport.get_extra_info("peername")
    if not there:
        return True  # the connection was reset
    try:
        ends = far_ends(here[:2], there[:2])
    except (OSError, ValueError):
        return False  # the kernel offers no way to find out
    if not ends:
        return _is_loopback(str(there[0]))
    return any(not end.inode or is_models(end.uid, users) for end in ends)


def _is_loopback(address: str) -> bool:
    return address.startswith(("127.", "::ffff:127.")) or address == "::1"


def refuse() -> NotAllowed:
    return NotAllowed(
        "cannot answer: this connection comes from a model's server, which may not use magid; "
        "see what that model does: journalctl -u 'llama-server@*'"
    )
