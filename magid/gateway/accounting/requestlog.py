"""Which requests for models are told to the log: those that fail, are ended, or wait long.

All of them, with their figures, are at /api/requests. Never a word of their text. Of those that are
refused or fail no more than a few are told in a while, so that nobody can fill the log.
"""

import logging
import time

from magid.gateway.accounting.request_log import Outcome, Record
from magid.log import rate_limit
from magid.log.events import Event, about

log = logging.getLogger(__name__)

_RATIONS = {Event.REQUEST_REFUSED: rate_limit.REFUSED, Event.REQUEST_FAILED: rate_limit.FAILED}
SLOW_S = 30.0  # to the first byte, from where the request came


def tell_end(record: Record) -> None:
    """Called once for each request, when it has ended."""
    told = _told(record)
    if told is None:
        return
    event, level, words = told
    share = _RATIONS.get(event)
    more = share.take(time.monotonic()) if share else ""
    if more is None:
        return
    log.log(
        level, "request %s for %r %s%s", record.id, record.asked_model, words, more,
        extra=about(event, model=record.model_id, port=record.port, request=record.id,
            client_request=record.client_request_id,
        ),
    )  # fmt: skip


def _told(record: Record) -> tuple[Event, int, str] | None:
    if record.outcome is Outcome.FAILED:
        why = record.error or f"its server answered with status {record.status}"
        return Event.REQUEST_FAILED, logging.WARNING, f"failed: {why}"
    if record.outcome is Outcome.REFUSED and record.status is None:
        return Event.REQUEST_REFUSED, logging.WARNING, f"was refused: {record.error}"
    if record.outcome is Outcome.KILLED:
        return Event.REQUEST_KILLED, logging.INFO, "was ended by DELETE /api/requests"
    if (record.first_byte_s or 0.0) >= SLOW_S:
        text = f"got its first byte after {record.first_byte_s:.1f} s"
        if record.sent_s is not None:
            text += f", {record.sent_s:.1f} s of them in the queue"
        return Event.REQUEST_SLOW, logging.WARNING, text
    return None
