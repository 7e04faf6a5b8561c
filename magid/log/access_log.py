"""Logs requests that are refused, that fail, or that take long.

Refused, too frequent and too large requests may be an attack. The rate is limited, so that no
client can fill the log.
"""

import logging
import time

from magid.log import rate_limit
from magid.log.events import Event, about

log = logging.getLogger(__name__)

SLOW_S = 10.0
# The client errors that an administrator can or should do something about.
LOGGED_REFUSALS = frozenset({401, 403, 408, 413, 421, 429})
_SHOWN = 200  # characters of a path


def log_error(
    status: int,
    code: str,
    message: str,
    *,
    request_id: str,
    client_request_id: str = "",
    method: str,
    path: str,
) -> None:
    """Logs an error answer, but not a 500: `log_defect` has logged that with its traceback."""
    if status not in LOGGED_REFUSALS and status <= 500:
        return
    is_failure = status > 500
    more = (rate_limit.FAILED if is_failure else rate_limit.REFUSED).take(time.monotonic())
    if more is None:
        return
    event = Event.REQUEST_FAILED if is_failure else Event.REQUEST_REFUSED
    log.warning(
        "%s %s: %d: %s%s", method, path[:_SHOWN], status, message, more,
        extra=about(event, request=request_id, client_request=client_request_id, error=code),
    )  # fmt: skip


def log_change(
    caller: str,
    status: int,
    *,
    request_id: str,
    client_request_id: str = "",
    method: str,
    path: str,
) -> None:
    """Logs a change that was made, or begun, over the API, and who has asked for it."""
    log.info(
        "%s: %s %s: %d", caller, method, path[:_SHOWN], status,
        extra=about(
            Event.CHANGED, request=request_id, client_request=client_request_id, caller=caller
        ),
    )  # fmt: skip


def log_defect(
    what: str, error: BaseException, *, request_id: str, client_request_id: str = ""
) -> None:
    """Logs a request or a stream that failed with an internal error, with the traceback."""
    log.error(
        "%s %s failed", what, request_id, exc_info=error,
        extra=about(Event.DEFECT, request=request_id, client_request=client_request_id),
    )  # fmt: skip


def log_slow(
    took_s: float,
    *,
    request_id: str,
    client_request_id: str = "",
    method: str,
    path: str,
    status: int,
) -> None:
    """Logs a request if it took long. Not for requests that wait for something on purpose."""
    if took_s >= SLOW_S:
        log.warning(
            "%s %s: %d after %.1f s", method, path[:_SHOWN], status, took_s,
            extra=about(Event.REQUEST_SLOW, request=request_id, client_request=client_request_id),
        )  # fmt: skip
