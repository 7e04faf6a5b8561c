"""The HTTP status of each error."""

from collections.abc import Mapping

from magid import errors

STATUS: Mapping[type[errors.MagidError], int] = {
    errors.InvalidInput: 400,
    errors.InvalidConfig: 500,
    errors.CannotStart: 503,
    errors.GgufError: 500,
    errors.Unauthenticated: 401,
    errors.NotAllowed: 403,
    errors.NotFound: 404,
    errors.MethodNotAllowed: 405,
    errors.SlowRequest: 408,
    errors.Conflict: 409,
    errors.StaleRevision: 412,
    errors.TooLarge: 413,
    errors.UnsupportedMediaType: 415,
    errors.HostNotAllowed: 421,
    errors.QueueFull: 429,
    errors.RateLimited: 429,
    errors.RescanFailed: 500,
    errors.AlreadyRunning: 500,
    errors.NotSupported: 501,
    errors.NotReady: 503,
    errors.ServerFailed: 503,
    errors.ServerStopped: 503,
    errors.ServerLost: 502,
    errors.HubFailed: 502,
    errors.TimedOut: 504,
    errors.CannotWrite: 507,
    errors.DoesNotFit: 507,
}


def status_of(error: errors.MagidError) -> int:
    return status_for(type(error))


def status_for(error: type[errors.MagidError]) -> int:
    """Returns the status of the nearest base class in the table; a subclass needs no entry."""
    for kind in error.__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return 500
