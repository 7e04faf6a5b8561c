"""The protocol between magid and its privileged launcher on /run/magi/launcher.sock.

One line of JSON each way, at most `MAX_LINE_BYTES` with its newline. Pure. The launcher trusts
nothing in a request: `parse_request` returns a value in which every field has its type and bounds,
or raises InvalidInput. The launcher refuses a valid request that this machine does not allow.
"""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, Final

from msgspec import Struct, field

from magid.launcher.checks import (
    Check,
    bad,
    boolean,
    many,
    matching,
    one_of,
    or_none,
    path,
    plain_path,
    whole_number,
)
from magid.launcher.download_request import DownloadRequest, checked_download
from magid.llama import placement as placements
from magid.llama.file_removal import FileIdentity
from magid.llama.placement import Placement
from magid.llama.runtime_settings import MAX_INSTANCES, SERVER_SETTINGS, RuntimeSetting
from magid.llama.spec import DRAFT_TYPES, MAX_ADAPTERS, ServerSpec

MAX_LINE_BYTES: Final = 64 * 1024
MAX_FLAGS: Final = 1024  # llama-server 0.7.0 knows 500 options, with all spellings
MAX_REMOVED: Final = 64  # files of one request: a line is bounded
_MAX_DEPTH: Final = 8  # the deepest request has 4

_MODEL_ID = re.compile(r"[a-z0-9_-]{1,128}")
_PROFILE = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_HOST = re.compile(r"[0-9A-Za-z.:-]{1,253}")
_STAMP = re.compile(r"[0-9A-Za-z.:,_-]{0,4096}")
_FLAG = re.compile(r"--?[A-Za-z][A-Za-z0-9._-]{0,63}|--spec-type=[a-z][a-z0-9-]{0,31}")
_IDENTITY = re.compile(r"([0-9]{1,20}):([0-9]{1,20}):(/.*)", re.DOTALL)
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)  # of JSON; may lack its end
_KINDS: Final = ("chat", "embedding", "reranker")


class StartRequest(Struct, frozen=True):
    """Starts this server; it replaces any server on the same port.

    `flags` are the options that the installed llama-server knows. They only decide which of
    magid's own options are left out; the launcher does not run it to find out.
    """

    spec: ServerSpec
    profile: str | None
    flags: frozenset[str]
    placement: Placement | None = None


class StopRequest(Struct, frozen=True):
    """Stops the server; systemctl can start it again."""

    port: int


class ForgetRequest(Struct, frozen=True):
    """Stops the server and removes its unit."""

    port: int


class Ping(Struct, frozen=True):
    """Checks that the launcher answers."""


class RemoveRequest(Struct, frozen=True):
    """Removes files of one model below the library of the launcher's own configuration."""

    files: tuple[FileIdentity, ...]


class DevicesRequest(Struct, frozen=True):
    """Lists the devices that this engine finds in the sandbox of servers; see `output_reply`."""

    engine: str | None = None


class PredictRequest(Struct, frozen=True):
    """Predicts the memory of this server in the sandbox of servers; see `output_reply`.

    Its files and options are checked as those of a StartRequest; nothing is started to stay. One
    `for_start` is waited for by a start: it yields to no other work, and ends one that does, whose
    reply is Busy then.
    """

    spec: ServerSpec
    flags: frozenset[str]
    placement: Placement | None = None
    for_start: bool = False


Request = (
    StartRequest | StopRequest | ForgetRequest | Ping | DevicesRequest | PredictRequest
    | RemoveRequest | DownloadRequest
)  # fmt: skip


class LauncherReply(Struct, frozen=True):
    """`error` is a stable code, the name of a class of `errors`; empty after a success."""

    error: str = ""
    message: str = ""  # for a person: begins with "cannot"
    details: Mapping[str, str | int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not self.error


# -- writing ---------------------------------------------------------------------------------


def request_line(request: Request) -> bytes:
    """Returns the line of the request. Raises InvalidInput if it is too long to send."""
    body: dict[str, Any] = {"verb": _VERBS[type(request)]}
    match request:
        case StartRequest(spec, profile, flags, placement):
            body |= {"spec": asdict(spec), "profile": profile, "flags": sorted(flags)}
            body |= {"placement": placement and asdict(placement)}
        case PredictRequest(spec, flags, placement, for_start):
            body |= {"spec": asdict(spec), "flags": sorted(flags), "for_start": for_start}
            body |= {"placement": placement and asdict(placement)}
        case StopRequest(port) | ForgetRequest(port):
            body |= {"port": port}
        case RemoveRequest(files):
            body |= {"files": [str(one) for one in files]}
        case DownloadRequest(action, source, more):
            body |= {"action": action, "source": asdict(source)}
            body |= {"more": [asdict(one) for one in more]} if more else {}
        case DevicesRequest(engine):
            body |= {"engine": engine}
        case Ping():
            pass
    line = _line(body)
    if len(line) > MAX_LINE_BYTES:
        raise bad("request", f"has {len(line)} bytes, and {MAX_LINE_BYTES} is the most")
    return line


def reply_line(reply: LauncherReply) -> bytes:
    """Returns the line of the reply."""
    if reply.ok:
        return _line({"ok": True, **reply.details})
    return _line({"ok": False, "error": reply.error, "message": reply.message, **reply.details})


def output_reply(output: bytes) -> LauncherReply:
    """Returns the reply that has what llama-server printed. Encoded, as it may be any bytes."""
    return LauncherReply(details={"output": base64.b64encode(output).decode()})


def output_in(details: Mapping[str, str | int]) -> str:
    """Returns the output of an `output_reply`. Raises InvalidInput."""
    try:
        return base64.b64decode(str(details["output"]), validate=True).decode(errors="replace")
    except (KeyError, ValueError):
        raise bad("reply", 'should have "output", in base64') from None


def _line(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode() + b"\n"


_VERBS: Final[Mapping[type, str]] = {
    StartRequest: "start",
    StopRequest: "stop",
    ForgetRequest: "forget",
    Ping: "ping",
    DevicesRequest: "devices",
    PredictRequest: "predict",
    RemoveRequest: "remove",
    DownloadRequest: "download",
}


# -- reading ---------------------------------------------------------------------------------


def parse_request(line: bytes) -> Request:
    """Returns the request in this line. For any bytes, raises nothing but InvalidInput."""
    body = _object(line, "request")
    verb = body.pop("verb", None)
    match verb:
        case "start":
            _only(body, {"spec", "profile", "flags", "placement"}, "request")
            flags, placement = _flags(body["flags"]), _placement(body["placement"])
            profile = _profile("profile", body["profile"])
            return StartRequest(_spec(body["spec"]), profile, flags, placement)
        case "predict":
            _only(body, {"spec", "flags", "placement", "for_start"}, "request")
            flags, placement = _flags(body["flags"]), _placement(body["placement"])
            for_start = boolean("for_start", body["for_start"])
            return PredictRequest(_spec(body["spec"]), flags, placement, for_start)
        case "stop" | "forget":
            _only(body, {"port"}, "request")
            port = _port("port", body["port"])
            return StopRequest(port) if verb == "stop" else ForgetRequest(port)
        case "remove":
            _only(body, {"files"}, "request")
            return RemoveRequest(_identities("files", body["files"]))
        case "download":
            more = body.pop("more", [])
            _only(body, {"action", "source"}, "request")
            return checked_download(body["action"], body["source"], more)
        case "ping" | "devices":
            _only(body, set() if verb == "ping" else {"engine"}, "request")
            return Ping() if verb == "ping" else DevicesRequest(_engine("engine", body["engine"]))
        case _:
            raise bad("verb", f"should be one of {', '.join(_VERBS.values())}")


def parse_reply(line: bytes) -> LauncherReply:
    """Returns the reply in this line. Raises InvalidInput if the line is not a reply."""
    body = _object(line, "reply")
    match body:
        case {"ok": True}:
            return LauncherReply(details=_details(body))
        case {"ok": False, "error": str(error), "message": str(message)} if error:
            return LauncherReply(error, message, _details(body))
        case _:
            raise bad("reply", 'should have "ok", and "error" and "message" if that is false')


def _details(body: Mapping[str, object]) -> dict[str, str | int]:
    known = ("ok", "error", "message")
    return {k: v for k, v in body.items() if k not in known and isinstance(v, str | int)}


def _object(line: bytes, what: str) -> dict[str, Any]:
    """Returns the line's one JSON object; refuses duplicate keys, NaN and deep nesting."""
    if len(line) > MAX_LINE_BYTES:
        raise bad(what, f"is longer than {MAX_LINE_BYTES} bytes")
    if not line.endswith(b"\n"):
        raise bad(what, "does not end with a newline")
    text = line.removesuffix(b"\n")
    # Those side by side count too: no genuine line has that many.
    brackets = _STRING.sub(b"", text)
    if brackets.count(b"[") + brackets.count(b"{") > _MAX_DEPTH * 8:
        raise bad(what, "is nested too deeply")
    try:
        body = json.loads(
            text.decode("utf-8"), object_pairs_hook=_distinct, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise bad(what, f"is not strict JSON: {error}") from None
    if not isinstance(body, dict):
        raise bad(what, "is not a JSON object")
    return body


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    body = dict(pairs)
    if len(body) != len(pairs):
        raise ValueError("a key is given twice")
    return body


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _only(body: Mapping[str, Any], expected: set[str], what: str) -> None:
    if unknown := body.keys() - expected:
        raise bad(what, f"has {min(unknown)[:64]!r}, which is not known")
    if missing := expected - body.keys():
        raise bad(what, f"lacks {min(missing)!r}")


# -- values ----------------------------------------------------------------------------------


def _identity(name: str, value: Any) -> FileIdentity:
    found = _IDENTITY.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise bad(name, "should be DEVICE:INODE:PATH")
    return FileIdentity(path(name, found[3]), int(found[1]), int(found[2]))


_identities = many(_identity, MAX_REMOVED)
_port = whole_number(1024, 65_535)
_profile = or_none(matching(_PROFILE, "a profile's name or null"))
_flag_list = many(matching(_FLAG, "an option of llama-server"), MAX_FLAGS)


def _setting(setting: RuntimeSetting) -> Check:
    """The table's own check, as the configuration and the API have it too."""

    def check(name: str, value: Any) -> Any:
        try:
            return setting.values.check(value)
        except ValueError as error:
            raise bad(name, str(error)) from None

    return or_none(check) if setting.default is None else check


_SPEC: Final[Mapping[str, Check]] = {
    "model_id": matching(_MODEL_ID, "a model's id"),
    "instance": whole_number(0, MAX_INSTANCES - 1),
    "port": _port,
    "host": matching(_HOST, "a host name or an IP address"),
    "model_path": path,
    "mmproj_path": or_none(path),
    "kind": one_of(_KINDS),
    "stamp": matching(_STAMP, "the identity of files"),
    "draft_type": or_none(one_of(DRAFT_TYPES)),
    "draft_path": or_none(path),
    "draft_stamp": matching(_STAMP, "the identity of a file"),
    "lora_paths": many(plain_path, MAX_ADAPTERS),
    "lora_stamp": matching(_STAMP, "the identity of files"),
    "lora_bytes": whole_number(0, 2**60),
    **{setting.name: _setting(setting) for setting in SERVER_SETTINGS},
}
_engine = _SPEC["engine"]
assert set(_SPEC) == {each.name for each in fields(ServerSpec)}


def _spec(value: Any) -> ServerSpec:
    if not isinstance(value, dict):
        raise bad("spec", "should be an object")
    _only(value, set(_SPEC), "spec")
    return ServerSpec(**{name: check(f"spec.{name}", value[name]) for name, check in _SPEC.items()})


def _placement(value: Any) -> Placement | None:
    return None if value is None else placements.checked(value)


def _flags(value: Any) -> frozenset[str]:
    return frozenset(_flag_list("flags", value))


CREDENTIAL: Final = "api-key"


def credential_path(port: int) -> str:
    """Returns the path of the server's key: arguments do not expand $CREDENTIALS_DIRECTORY."""
    return f"/run/credentials/llama-server@{int(port)}.service/{CREDENTIAL}"
