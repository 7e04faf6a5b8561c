"""All routes and the access that each needs. Sanic's routes and OpenAPI are made from it."""

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from magid import errors as e
from magid.api import events
from magid.api.context import Context
from magid.api.handlers import (
    capture,
    disk,
    gpus,
    library,
    logs,
    metrics,
    models,
    page,
    profiles,
    requests,
    servers,
    sessions,
    system,
    tokens,
)
from magid.api.handlers import servers as health
from magid.api.page import TYPES
from magid.api.reply import Call, Reply, Stream
from magid.api.schemas.access import (
    Activated,
    ProfileCreated,
    ProfileReplaced,
    ProfileReply,
    ProfileTextReply,
    SessionReply,
    SignInLink,
    TokenCreated,
    TokenLimitsReply,
    TokensReply,
)
from magid.api.schemas.disk import DiskReply, RemovalReply
from magid.api.schemas.gateway import (
    CapturedTexts,
    CaptureReply,
    Explanation,
    RequestsReply,
    UsageReply,
)
from magid.api.schemas.gpus import GpusReply, ModelMemory
from magid.api.schemas.library import Download, DownloadsReply, OutdatedReply, VariantsReply
from magid.api.schemas.models import (
    DiscoveredModel,
    EnabledAllReply,
    EnabledReply,
    Message,
    ModelDetail,
    PortRangeReply,
    PortReply,
    RegistryReply,
    RescanReply,
    SettingsReply,
    ThinkingReply,
    TierReply,
)
from magid.api.schemas.servers import (
    HealthReply,
    LiveReply,
    LogsReply,
    OwnLogsReply,
    PlanReply,
    ScrapeTarget,
    ServerAction,
    ServersReply,
    StartAllReply,
    StatusReply,
    StopAllReply,
)
from magid.api.schemas.system import ConfigurationReply, EnginesReply
from magid.auth.tokens import Scope
from magid.gateway.accounting.token_usage import KEPT_DAYS

Handler = Callable[[Context, Call], Awaitable[Reply | Stream]]


class Access(StrEnum):
    """The access that a caller needs. While no token exists, being local is enough."""

    PUBLIC = "public"  # probes
    READ = "read"
    CHANGE = "change"

    @property
    def scope(self) -> Scope | None:
        """The scope that a token needs; None: no token is required."""
        return {Access.READ: Scope.READ, Access.CHANGE: Scope.ADMIN}.get(self)


class Query(Struct, frozen=True):
    """One query parameter: its type, and its bounds where it is a number."""

    name: str
    kind: type[bool] | type[int] | type[float] | type[str]
    description: str
    low: float | None = None
    high: float | None = None


class Route(Struct, frozen=True):
    """One operation. `reply` is None for an event stream; `more` has further success statuses."""

    method: str
    path: str
    handler: Handler
    reply: Any
    access: Access
    status: int = 200
    more: tuple[int, ...] = ()
    body: str = ""  # its model's name in `schemas.bodies`
    query: tuple[Query, ...] = ()
    errors: tuple[type[e.MagidError], ...] = ()
    media: tuple[str, ...] = ("application/json",)
    signs_in: bool = False  # its handler needs to know who sends the request
    takes_large: bool = False  # body size is bounded by the configuration only
    starts_work: bool = False  # a process, for an answer that changes nothing

    @property
    def is_for_own_pages(self) -> bool:
        """Whether another site's page may not even have it done without seeing the answer."""
        return self.method == "GET" and (self.access is Access.CHANGE or self.starts_work)

    @property
    def summary(self) -> str:
        """The first line of the handler's docstring, for OpenAPI."""
        return (self.handler.__doc__ or "").strip().partition("\n")[0].rstrip(".")


_WAIT = Query("wait", float, "seconds to wait until it is done; without it 202 at once", 0, 3600)
_MODEL = Query("model", str, "ask for this model only")
_DRY_RUN = Query("dryRun", bool, "only answer the plan")
_APPLY = Query("apply", bool, "false: only remember the choice")
_ALL = Query("all", bool, "true: stopped and failed servers too")
_LIMIT = Query("limit", int, "how many, the newest first", 1, 1300)
_USAGE = (
    Query("days", int, "how many days, the last one is today (UTC); 7 if not given", 1, KEPT_DAYS),
    Query("by", str, "what to sum by: some of day,token,model (all of them if not given)"),
)
_INSTANCE = Query("instance", int, "which of the model's servers, from 0", 0, 15)
_RUN = Query("run", str, "the process start: current, previous, or all (the default)")
_MEMORY = (
    Query("ctxSize", int, "with this context; the model's own setting if not given", 0, 2**24),
    Query("parallel", int, "with so many slots; the model's own setting if not given", 1, 1024),
)
_REMOVAL = (
    Query("files", bool, "has to be true: the model's files are removed from the disk"),
    Query("stop", bool, "true: stop its servers first; else a running model is refused"),
    Query("forget", bool, "true: also forget what was decided of the model"),
    _DRY_RUN,
)
_SOURCE = Query("source", str, "ORG/REPO, with @REVISION if it is not main")
_LOGS = (
    Query("lines", int, "how many of the last lines", 1, 2000),
    Query("since", str, "an RFC 3339 time, or a span back from now: 90s, 10m, 2h, 1d"),
    Query("grep", str, "only lines that contain this text, in any case"),
    Query("follow", bool, "go on as server-sent events; Last-Event-ID resumes"),
)
# The first is the default; the second is sent if Accept asks for it.
_TEXT = ("text/plain", "application/openmetrics-text")

_Errors = tuple[type[e.MagidError], ...]
_UNKNOWN: _Errors = (e.ModelNotFound,)
_WRITE: _Errors = (e.CannotWrite,)
_UPDATE: _Errors = (*_UNKNOWN, *_WRITE, e.ModelGone, e.PortTaken, e.NotReady)
_ROOM: _Errors = (e.DoesNotFit, e.DeviceMissing, e.DraftMissing)
_STOP: _Errors = (*_UNKNOWN, e.Busy, e.TimedOut, e.ServerFailed)
_START: _Errors = (*_STOP, e.ModelDisabled, e.ModelGone, e.PortTaken, *_ROOM)
_DOWNLOAD: _Errors = (e.DownloadNotFound, e.NotReady)
_DOWNLOADING: _Errors = (e.Conflict, e.NotAllowed, e.ServerFailed, e.TimedOut)
_PROFILE: _Errors = (e.ProfileNotFound, e.InvalidProfile)


def _get(path: str, handler: Handler, reply: Any = None, **more: Any) -> Route:
    return Route("GET", path, handler, reply, **{"access": Access.READ, **more})


def _probe(path: str, handler: Handler, reply: Any, **more: Any) -> Route:
    return _get(path, handler, reply, access=Access.PUBLIC, **more)


def _post(path: str, handler: Handler, reply: Any, **more: Any) -> Route:
    return Route("POST", path, handler, reply, Access.CHANGE, **more)


def _put(path: str, handler: Handler, reply: Any, body: str, **more: Any) -> Route:
    return Route("PUT", path, handler, reply, Access.CHANGE, body=body, **more)


def _delete(path: str, handler: Handler, reply: Any, **more: Any) -> Route:
    return Route("DELETE", path, handler, reply, Access.CHANGE, **more)


def _session(method: str, handler: Handler, **more: Any) -> Route:
    """One who signs in has no access yet."""
    path = "/api/session"
    return Route(method, path, handler, SessionReply, Access.PUBLIC, signs_in=True, **more)


_TAG, _LATER = (304,), (202,)  # further statuses: unchanged; started, not finished
M, S, P = "/api/models", "/api/models/servers", "/api/models/profiles"
TEXTS = "/api/models/profile-texts"
LIBRARY, CAPTURE = "/api/library/downloads", "/api/capture"
ID, SID, NAME = f"{M}/{{modelId}}", f"{S}/{{modelId}}", f"{P}/{{name}}"

# fmt: off
ROUTES: tuple[Route, ...] = (
    _probe("/", page.root, str, media=("text/html", "text/plain"), more=(*_TAG, 404)),
    _probe("/assets/{name}", page.asset, str, media=TYPES, more=_TAG, errors=(e.NotFound,)),
    _probe("/livez", health.livez, LiveReply),
    _probe("/readyz", health.readyz, HealthReply, more=(503,), query=(_MODEL,), errors=_UNKNOWN),
    _probe("/healthz", health.readyz, HealthReply, more=(503,), query=(_MODEL,), errors=_UNKNOWN),
    _probe("/health", health.readyz, HealthReply, more=(503,), query=(_MODEL,), errors=_UNKNOWN),
    _get("/api/events", events.get_events),
    _get("/api/logs", logs.own_logs, OwnLogsReply, query=_LOGS, errors=(e.NotReady,)),
    _get(f"{M}/registry", models.get_registry, RegistryReply, more=_TAG,
         errors=(e.NotReady,)),
    _get(f"{M}/status", health.status, StatusReply),
    _get(f"{M}/tiers/{{tier}}", models.get_tier, list[DiscoveredModel], more=_TAG,
         errors=(e.NotReady,)),
    _post(f"{M}/rescan", models.rescan, RescanReply, errors=(e.RescanFailed, *_WRITE)),
    _post(f"{M}/apply", servers.apply, PlanReply, more=_LATER, query=(_DRY_RUN,),
          errors=(e.Busy,)),
    _get(S, servers.list_servers, ServersReply, query=(_ALL,)),
    _post(f"{S}/start-all", servers.start_all, StartAllReply, more=_LATER, errors=(e.Busy,)),
    _post(f"{S}/stop-all", servers.stop_all, StopAllReply, more=_LATER, errors=(e.Busy,)),
    _post(f"{SID}/start", servers.start, ServerAction, more=_LATER, query=(_WAIT,),
          errors=_START),
    _post(f"{SID}/stop", servers.stop, ServerAction, more=_LATER, query=(_WAIT,), errors=_STOP),
    _post(f"{SID}/restart", servers.restart, ServerAction, more=_LATER, query=(_WAIT,),
          errors=_START),
    _get(f"{SID}/logs", logs.server_logs, LogsReply, query=(*_LOGS, _INSTANCE, _RUN),
         errors=(*_UNKNOWN, e.NotReady)),
    _get(f"{SID}/metrics", metrics.get_server_metrics, str, query=(_INSTANCE,), media=_TEXT[:1],
         errors=(*_UNKNOWN, e.ServerUnreachable)),
    _get(P, profiles.list_profiles, list[str], more=_TAG),
    _post(P, profiles.create_profile, ProfileCreated, status=201, body="Profile",
          errors=(e.ProfileExists, *_WRITE)),
    _get(NAME, profiles.get_profile, ProfileReply, more=_TAG, errors=_PROFILE),
    _put(NAME, profiles.replace_profile, ProfileReplaced, "Profile",
         errors=(*_PROFILE, e.StaleRevision, *_WRITE)),
    _delete(NAME, profiles.delete_profile, Message,
            errors=(e.ProfileNotFound, e.ProfileActive, *_WRITE)),
    _post(f"{NAME}/activate", profiles.activate, Activated, more=_LATER, query=(_APPLY, _DRY_RUN),
          errors=(*_PROFILE, e.Busy, *_WRITE)),
    _post(TEXTS, profiles.create_profile_text, ProfileCreated, status=201, body="ProfileTextBody",
          errors=(e.ProfileExists, *_WRITE)),
    _get(f"{TEXTS}/{{name}}", profiles.get_profile_text, ProfileTextReply, more=_TAG,
         errors=_PROFILE),
    _put(f"{TEXTS}/{{name}}", profiles.replace_profile_text, ProfileReplaced, "ProfileTextBody",
         errors=(e.ProfileNotFound, e.StaleRevision, *_WRITE)),
    _post(f"{M}/enable-all", models.enable_all, EnabledAllReply, errors=(e.NotReady, *_WRITE)),
    _post(f"{M}/disable-all", models.disable_all, EnabledAllReply, errors=(e.NotReady, *_WRITE)),
    _put(f"{M}/port-range", models.put_port_range, PortRangeReply, "PortRangeBody",
         errors=(e.Conflict,)),
    _get(ID, models.get_model, ModelDetail,
         errors=(*_UNKNOWN, e.ModelGone, e.NotReady)),
    _get(f"{ID}/memory", gpus.get_memory, ModelMemory, query=_MEMORY, starts_work=True,
         errors=(*_UNKNOWN, e.ModelGone, e.NotReady, e.Busy)),
    _get("/api/library/disk", disk.get_disk, DiskReply, starts_work=True, errors=(e.NotReady,)),
    _delete(ID, disk.delete_model, RemovalReply, query=_REMOVAL,
            errors=(*_STOP, *_WRITE, e.ModelGone, e.NotReady, e.Conflict, e.NotAllowed)),
    _put(f"{ID}/tier", models.put_tier, TierReply, "TierBody", errors=_UPDATE),
    _put(f"{ID}/thinking", models.put_thinking, ThinkingReply, "ThinkingBody", errors=_UPDATE),
    _put(f"{ID}/enabled", models.put_enabled, EnabledReply, "EnabledBody", errors=_UPDATE),
    _put(f"{ID}/port", models.put_port, PortReply, "PortBody", errors=_UPDATE),
    _put(f"{ID}/runtime-settings", models.put_settings, SettingsReply, "SettingsBody",
         errors=_UPDATE),
    # Changes nothing: a dry run.
    replace(_post("/api/route/explain", requests.explain, Explanation, body="ExplainBody",
                  errors=(e.ModelNotFound, e.NotReady, e.ServerFailed)),
            access=Access.READ, takes_large=True),
    _get("/api/requests", requests.list_requests, RequestsReply, query=(_LIMIT,)),
    _get("/api/usage", requests.get_usage, UsageReply, query=_USAGE),
    _delete("/api/requests/{requestId}", requests.cancel_request, Message,
            errors=(e.NotFound,)),
    _get(CAPTURE, capture.get_capture, CaptureReply, access=Access.CHANGE),
    _post(CAPTURE, capture.start_capture, CaptureReply, body="CaptureBody",
          errors=(e.NotAllowed,)),
    _delete(CAPTURE, capture.end_capture, CaptureReply),
    _get(f"{CAPTURE}/{{requestId}}", capture.get_texts, CapturedTexts, access=Access.CHANGE,
         errors=(e.NotAllowed, e.NotFound)),
    _get(LIBRARY, library.list_downloads, DownloadsReply, errors=(e.NotReady,)),
    _post(LIBRARY, library.create_download, Download, status=202, body="DownloadBody",
          errors=(e.NotReady, *_DOWNLOADING)),
    _get(f"{LIBRARY}/{{downloadId}}", library.get_download, Download, errors=_DOWNLOAD),
    _post(f"{LIBRARY}/{{downloadId}}/pause", library.pause_download, Download,
          errors=(*_DOWNLOAD, *_DOWNLOADING)),
    _post(f"{LIBRARY}/{{downloadId}}/resume", library.resume_download, Download,
          errors=(*_DOWNLOAD, *_DOWNLOADING)),
    _delete(f"{LIBRARY}/{{downloadId}}", library.remove_download, Message,
            errors=(*_DOWNLOAD, *_DOWNLOADING)),
    _get("/api/library/variants", library.list_variants, VariantsReply,
         access=Access.CHANGE, query=(_SOURCE,),  # with the hub token of the administrator
         errors=(e.HubFailed, e.NotReady, *_DOWNLOADING)),
    _get("/api/library/outdated", library.list_outdated, OutdatedReply,
         access=Access.CHANGE, errors=(e.NotReady, *_DOWNLOADING)),  # with the same token
    _get("/api/gpus", gpus.list_gpus, GpusReply),
    _post("/api/gpus/refresh", gpus.refresh_gpus, GpusReply),
    _get("/api/configuration", system.get_configuration, ConfigurationReply),
    _get("/api/engines", system.get_engines, EnginesReply),
    _get("/metrics", metrics.get_metrics, str, media=_TEXT),
    _get("/sd/prometheus", metrics.discover, list[ScrapeTarget]),
    _session("GET", sessions.get_session),
    _session("POST", sessions.sign_in, body="SessionBody",
             errors=(e.Unauthenticated, e.Conflict, e.RateLimited)),
    _session("DELETE", sessions.sign_out),
    _post("/api/session/links", sessions.make_link, SignInLink, status=201, body="LinkBody",
          errors=(e.TokenNotFound, e.Conflict), signs_in=True),
    _get("/api/tokens", tokens.list_tokens, TokensReply, access=Access.CHANGE),
    _post("/api/tokens", tokens.create_token, TokenCreated, status=201, body="TokenBody",
          errors=(e.TokenExists, e.TokensUnusable, *_WRITE)),
    _put("/api/tokens/{name}/limits", tokens.limit_token, TokenLimitsReply, "TokenLimits",
         errors=(e.TokenNotFound, e.TokensUnusable, *_WRITE)),
    _delete("/api/tokens/{name}", tokens.revoke_token, Message,
            errors=(e.TokenNotFound, e.TokensUnusable, *_WRITE)),
)
# fmt: on
