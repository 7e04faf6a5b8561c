"""The events that operators search the log for, each with its MESSAGE_ID.

An id never changes and is never reused; systemd/magi.catalog explains each event. The ids are
random 128-bit numbers from `systemd-id128 new`.
"""

from enum import Enum

from magid.systemd.unit_names import unit_name


class Event(Enum):
    """An event. Its name, in lower case, is the field MAGI_EVENT."""

    STARTED = "f449e8ba110743b6bd328fc3c3142612"
    ENDED = "f5ad1f86ab604871b34d4a8c87b98a71"
    RELOADING = "64f7a16db57e40c487d12ca0cac0036c"
    RELOAD_FAILED = "0c1591e4869343e48524363cc1cf29b5"
    PHASE = "e89df377e06140a9a37d06e8bd092678"
    DEFECT = "2fc676b67f404cdda4a7e408092175f4"
    SCANNED = "f97b45b8bfb34b3690c490bf25a7a412"
    SCAN_FAILED = "02c1cdbecb304356a7ee841c99aa8dd8"
    STATE_PROBLEM = "8c196cf455334b30985dd3a93e361039"
    DECIDED = "920725222f7f4e17aad9af798a396dbb"
    PROFILE_ACTIVATED = "c82fa976a853496891a1fb427c040f54"
    PROFILE_WRITTEN = "5ad638702d98455a8958c31c47721e88"
    PROFILE_EDITED = "a0799d8edfcd47ba88ef3fa0739dce77"
    PROFILE_PROBLEM = "19b0e0e390db4d61a85579f12f78b407"
    SERVER_STARTING = "5a3861a96dd74dafac1ebf631bff1d6d"
    SERVER_PLACED = "d2011fbc83f248df8523559eaa614654"
    SERVER_READY = "c3765135a26f40cd91a368b7c8c18dd4"
    SERVER_STOPPING = "7c7581f3cf0248d595346663532c3527"
    SERVER_STOPPED = "c57e20e89d5e4c41992ad2f8d7a3d9b2"
    SERVER_BACKOFF = "6606628c85b1411e8b34c6a9fcbad521"
    SERVER_FAILED = "2de8b09811c440dead953e439a4b4a12"
    SERVER_LEFT_OUT = "1c2e26cb4e3943e2b280c0e897e3a19b"
    SERVER_MENDED = "d99f607ed67f4c02978c1b26e3b631c7"
    CHANGE_FAILED = "bd4a4eddb2d541a59844bc73a5e426c2"
    SYSTEMD_LOST = "1479f3da08e64031a2f13549a1f8557e"
    SYSTEMD_BACK = "eedc19eb3f854f9ba188c50044206149"
    CHANGED = "0fc098de19b844de825b5b2c83c6bdb9"
    REQUEST_REFUSED = "bc4d6dcab83b4729a03aeb49c75fabac"
    REQUEST_FAILED = "220e2c47b45142aa894715e091b9749b"
    REQUEST_SLOW = "fd26aeba30d64053a55292e4b20234a1"
    REQUEST_KILLED = "73e83e0fdf0944b99ffc84bb92f42593"
    REQUEST_STOPPED = "e45e5adcdbef452eb1d2ff58590c2de0"
    GPUS_UNKNOWN = "6f24e17b4ae1447ba363fe1e61fb793f"
    MODEL_REMOVED = "b7c41e0f5a2d4c1e9d3f6a8be2714c95"
    DOWNLOAD_STARTED = "d551fa5ae1443ef77cc9893d64489bb2"
    DOWNLOAD_DONE = "157584aeb763fbe9e522abd628060913"
    DOWNLOAD_PAUSED = "5ff56f6a3864e79a347cfdbc628a2761"
    DOWNLOAD_FAILED = "70d5a7b5cd4b14d3a80c3722140a87da"
    CAPTURE_STARTED = "104aa05b1dc94b18a95c43211c65e906"
    CAPTURE_ENDED = "a79f83741ac243bc9a4e62e538cba370"
    CAPTURE_READ = "c630cf8b060b431c8a6b4ec5b7a46695"
    ORDER_REFUSED = "c3a97e52d6b04b1f8e0d7f6429ab53e8"  # by the launcher


def about(
    event: Event,
    *,
    model: str | None = None,
    port: int | None = None,
    request: str | None = None,
    client_request: str = "",
    profile: str | None = None,
    error: str | None = None,
    caller: str | None = None,
) -> dict[str, dict[str, str]]:
    """Returns the `extra=` of a logging call: the entry's fields in the journal."""
    given = {
        "MAGI_MODEL": model,
        "MAGI_UNIT": None if port is None else unit_name(port),
        "MAGI_PORT": None if port is None else str(port),
        "MAGI_REQUEST_ID": request,
        "MAGI_CLIENT_REQUEST_ID": client_request or None,
        "MAGI_PROFILE": profile,
        "MAGI_ERROR": error,
        "MAGI_CALLER": caller,
    }
    fields = {"MESSAGE_ID": event.value, "MAGI_EVENT": event.name.lower()}
    return {"fields": fields | {name: text for name, text in given.items() if text is not None}}
