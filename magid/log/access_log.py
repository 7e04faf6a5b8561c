"""Which requests are logged: those that are refused, that fail, and that take long.

Refused, too frequent and too large requests are logged too, because they may be an attack; at a
limited rate, so that no client can fill the log.
"""

import logging
import time

from magid.log import rate_limit
from magid.log.events import Event, about

log = logging.getLogger(__name__)

SLOW_S = 10.0
# Of the client's own errors, those that an administrator can or should do something about.
TOLD_REFUSALS = frozenset({401, 403, 408, 413, 421, 429})
_SHOWN = 200  # characters of a path


def tell_error(
    status: int,
    code: str,
    message: str,
    *,
    request_id: str,
    client_request_id: str = "",
    method: str,
    path: str,
) -> None:
    """An answer with an error. Those with 500 are logged with their trace where they arise."""
    if status not in TOLD_REFUSALS and status <= 500:
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


def tell_defect(
    what: str, error: BaseException, *, request_id: str, client_request_id: str = ""
) -> None:
    """A request or a stream that a defect of magid has ended, with its trace."""
    log.error(
        "%s %s failed", what, request_id, exc_info=error,
        extra=about(Event.DEFECT, request=request_id, client_request=client_request_id),
    )  # fmt: skip


def tell_slow(
    took_s: float,
    *,
    request_id: str,
    client_request_id: str = "",
    method: str,
    path: str,
    status: int,
) -> None:
    """An answer, if it took long without having been asked to wait for something."""
    if took_s >= SLOW_S:
        log.warning(
            "%s %s: %d after %.1f s", method, path[:_SHOWN], status, took_s,
            extra=about(Event.REQUEST_SLOW, request=request_id, client_request=client_request_id),
        )  # fmt: skip
