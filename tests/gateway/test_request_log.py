"""The records of requests: in order, and bounded, those that were refused beside the others."""

from magid.errors import ModelNotFound
from magid.gateway.accounting import request_log
from magid.gateway.accounting.request_log import KEPT, KEPT_REFUSED, Outcome, Record, Records

PATH = "/v1/chat/completions"


def refused(number: int) -> Record:
    error = ModelNotFound("cannot find it")
    return request_log.unread(PATH, f"refused {number}", "", "ci", error)


def answered(number: int) -> Record:
    return Record(f"answered {number}", 0.0, PATH, "auto", is_stream=False)


def ids(records: Records, limit: int = KEPT + KEPT_REFUSED + 1) -> list[str]:
    return [record.id for record in records.newest(limit)]


def test_refused_requests_stand_between_the_others_by_their_time() -> None:
    records, clock = Records(), 100.0
    for number in range(3):
        for record in (answered(number), refused(number)):
            record.began, record.duration_s = clock, 0.5
            clock += 1.0
            if record.outcome is Outcome.REFUSED:
                records.refuse(record)
            else:
                records.end(record, Outcome.OK)
                record.duration_s = 0.5
    records.begin(answered(9))
    assert ids(records) == [
        "answered 9", "refused 2", "answered 2", "refused 1", "answered 1", "refused 0",
        "answered 0",
    ]  # fmt: skip
    assert ids(records, 2) == ["answered 9", "refused 2"]


def test_refused_requests_crowd_no_other_out() -> None:
    records = Records()
    for number in range(KEPT + 5):
        record = answered(number)
        records.begin(record)
        records.end(record, Outcome.OK)
    for number in range(3 * KEPT):
        records.refuse(refused(number))
    kept = ids(records)
    assert sum(one.startswith("answered") for one in kept) == KEPT
    assert sum(one.startswith("refused") for one in kept) == KEPT_REFUSED
    assert kept[0] == f"refused {3 * KEPT - 1}"
    assert (records.ended, records.refused) == (KEPT + 5, 3 * KEPT)


def test_a_long_reason_is_cut() -> None:
    """A record is bounded, whatever an error repeats of its request."""
    error = ModelNotFound("cannot find it: " + "x" * 60_000)
    kept = request_log.unread(PATH, "id", "", "ci", error).error
    assert kept == error.message[: len(kept)]
    assert len(kept) <= 2000
