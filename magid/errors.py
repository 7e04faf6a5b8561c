"""Every error magid raises on purpose.

An error knows a stable `code` (what clients match on) and `details`, and no HTTP: `http.status`
maps each class to a status, and a test walks this tree so that none is left out. The text starts
with "cannot", gives the reason and says what to do next.
"""

from collections.abc import Mapping
from typing import Any


class MagidError(Exception):
    """Base of all; never raised itself."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details: Mapping[str, Any] = details

    @property
    def code(self) -> str:
        """The stable name of this condition: the class name, as the seed's `error` field has it."""
        return type(self).__name__


class InvalidConfig(MagidError):
    """The configuration cannot be used: the daemon exits with 78 (EX_CONFIG)."""


class CannotStart(MagidError):
    """What a daemon that cannot start answers: the text is the reason, `cause` an error's code."""


class InvalidInput(MagidError):
    """The caller sent something that can never work; `details` names the field."""


class NotAllowed(MagidError):
    """The caller may not do this from where it is (Origin, socket peer)."""


class Unauthenticated(MagidError):
    """A token is needed, and none that counts was shown."""


class HostNotAllowed(MagidError):
    """The request is addressed to a name that is not ours (DNS rebinding)."""


class NotFound(MagidError):
    """Nothing is at this path."""


class ModelNotFound(NotFound):
    """No model has this id."""


class ProfileNotFound(NotFound):
    """No profile has this name."""


class TokenNotFound(NotFound):
    """No token has this name."""


class MethodNotAllowed(MagidError):
    """The path exists, with other methods."""


class Conflict(MagidError):
    """The request is valid, but the present state forbids it."""


class Busy(Conflict):
    """Another change of the same model is under way."""


class ModelDisabled(Conflict):
    """A server was asked for, of a model that is not enabled."""


class ModelGone(Conflict):
    """The model's file is not there at the moment; its overrides are kept."""


class PortTaken(Conflict):
    """The port belongs to another model, or no port of the range is free."""


class ProfileExists(Conflict):
    """A profile of this name exists already."""


class ProfileActive(Conflict):
    """The active profile cannot be deleted."""


class InvalidProfile(Conflict):
    """The profile's file is there but cannot be used; the text names file, line and key."""


class TokenExists(Conflict):
    """A token of this name exists already."""


class TokensUnusable(Conflict):
    """The file of tokens is there but cannot be used: TCP is closed."""


class StaleRevision(MagidError):
    """If-Match names another revision than the present one."""


class TooLarge(MagidError):
    """The body, or a part of it, is over its limit."""


class UnsupportedMediaType(MagidError):
    """A write came without `Content-Type: application/json`."""


class SlowRequest(MagidError):
    """The request did not arrive within its time."""


class RescanFailed(MagidError):
    """No model folder could be read."""


class NotReady(MagidError):
    """Not possible yet, but it will be: the caller should try again."""


class ServerFailed(MagidError):
    """The server was started and did not become ready; the text says why."""


class TimedOut(MagidError):
    """The wait ended before the event; what was asked for goes on."""


class CannotWrite(MagidError):
    """State could not be made durable; nothing was changed."""


class GgufError(MagidError):
    """The file is not a GGUF file that magid can use; the text is the reason, without "cannot"."""


class LlamaServerMissing(NotReady):
    """No usable llama-server program was found."""


class ServerUnreachable(NotReady):
    """A server did not answer in time, or its port is closed."""


class LauncherUnreachable(NotReady):
    """The privileged launcher did not answer, or its socket is closed."""


class BadReply(ServerUnreachable):
    """What answered on a server's port does not speak HTTP as it should."""


class QueueFull(MagidError):
    """Too many requests wait for this model already, or one has waited too long."""


class ServerLost(MagidError):
    """A server ended or misbehaved while it worked on a request."""


class AlreadyRunning(MagidError):
    """Another magid owns the state directory."""
