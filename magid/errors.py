"""Every error magid raises on purpose.

An error has a stable `code`, which clients match on, and `details`. It knows nothing of HTTP:
`http.status` maps each class to a status, and a test walks this tree to find a class without one.
The text starts with "cannot", gives the reason and says what to do next.
"""

from collections.abc import Mapping
from typing import Any


class MagidError(Exception):
    """The base class; never raised itself."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details: Mapping[str, Any] = details

    @property
    def code(self) -> str:
        """The stable name of this condition: the class name."""
        return type(self).__name__


class InvalidConfig(MagidError):
    """The configuration cannot be used: the daemon exits with 78 (EX_CONFIG)."""


class CannotStart(MagidError):
    """The daemon cannot start, and answers with this until it ends; `cause` is an error's code."""


class InvalidInput(MagidError):
    """The caller sent something that can never work; `details` names the field."""


class ContextExceeded(InvalidInput):
    """The prompt does not fit; `details` has `promptTokens`, `contextTokens` and a `hint`."""


class NotAllowed(MagidError):
    """The caller may not do this from where it is (Origin, socket peer)."""


class Unauthenticated(MagidError):
    """The request needs a valid token and has none."""


class HostNotAllowed(MagidError):
    """The Host header names something other than this server (DNS rebinding)."""


class NotFound(MagidError):
    """Nothing is at this path."""


class ModelNotFound(NotFound):
    """No model has this id."""


class ProfileNotFound(NotFound):
    """No profile has this name."""


class TokenNotFound(NotFound):
    """No token has this name."""


class DownloadNotFound(NotFound):
    """No download has this id."""


class MethodNotAllowed(MagidError):
    """The path exists, but not with this method."""


class NotSupported(MagidError):
    """A call of another program's API that magid knows, and does not have."""


class Conflict(MagidError):
    """The request is valid, but the current state forbids it."""


class Busy(Conflict):
    """Another change to the same model is in progress."""


class ModelDisabled(Conflict):
    """The model is not enabled, so it cannot have a server."""


class ModelGone(Conflict):
    """The model's file is missing at the moment; its overrides are kept."""


class PortTaken(Conflict):
    """The port belongs to another model, or no port of the range is free."""


class ProfileExists(Conflict):
    """A profile of this name exists already."""


class ProfileActive(Conflict):
    """The active profile cannot be deleted."""


class DeviceMissing(Conflict):
    """The model's setting `device` names a GPU that this machine does not have."""


class DraftMissing(Conflict):
    """The model's setting `draft` names a file that is not there."""


class InvalidProfile(Conflict):
    """The profile's file exists but cannot be used; the text names file, line and key."""


class TokenExists(Conflict):
    """A token of this name exists already."""


class TokensUnusable(Conflict):
    """The token file exists but cannot be used, so no caller is let in over TCP."""


class StaleRevision(MagidError):
    """If-Match names a revision other than the current one."""


class TooLarge(MagidError):
    """The body, or a part of it, is over its limit."""


class UnsupportedMediaType(MagidError):
    """The body is not `Content-Type: application/json`, or in a Content-Encoding not known."""


class SlowRequest(MagidError):
    """The request did not arrive in time."""


class RescanFailed(MagidError):
    """No model folder could be read."""


class NotReady(MagidError):
    """Not possible yet, but it will be: the caller should try again."""


class ServerFailed(MagidError):
    """The server was started and did not become ready; the text says why."""


class ModelNotRunning(ServerFailed):
    """No server runs, and a request starts none; `details` has the `modelId` to start."""


class TimedOut(MagidError):
    """The wait timed out; the operation itself goes on."""


class CannotWrite(MagidError):
    """State could not be made durable; nothing was changed."""


class DoesNotFit(MagidError):
    """The server needs more memory than can become free; `details` has `needBytes`."""


class GgufError(MagidError):
    """The file is not a GGUF file that magid can use; the text is the reason, without "cannot"."""


class LlamaServerMissing(NotReady):
    """No usable llama-server program was found."""


class ServerUnreachable(NotReady):
    """A server did not answer in time, or its port is closed."""


class LauncherUnreachable(NotReady):
    """The privileged launcher did not answer, or its socket is closed."""


class BadReply(ServerUnreachable):
    """The answer on a server's port is not valid HTTP."""


class QueueFull(MagidError):
    """Too many requests are waiting for this model, or this one has waited too long."""


class RateLimited(MagidError):
    """The caller's token has a limit, and has reached it; `details` has `retryAfterSeconds`."""


class ServerLost(MagidError):
    """A server ended or misbehaved while it was working on a request."""


class HubFailed(MagidError):
    """The hub of models refused, or did not answer; `cause` in the details says which."""


class ServerStopped(MagidError):
    """A server was stopped, by magid or by a person, while it was working on a request."""


class AlreadyRunning(MagidError):
    """Another magid owns the state directory."""
