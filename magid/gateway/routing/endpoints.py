"""The gateway's endpoints: one row each, for serving, for OpenAPI and for docs/rest-api.md."""

import re
from difflib import get_close_matches
from enum import StrEnum

from msgspec import Struct

from magid.discovery.kinds import ModelKind


class Style(StrEnum):
    """Whose SDK talks to an endpoint: it decides the shape of errors."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    OLLAMA = "ollama"


class Endpoint(Struct, frozen=True):
    """One operation. llama-server has the same path, or `target`.

    `kinds` are the models that can answer.
    """

    method: str
    path: str
    summary: str
    style: Style = Style.OPENAI
    kinds: frozenset[ModelKind] = frozenset()  # empty: magid answers by itself
    generates: bool = False  # tokens, which take long; else one quick pass
    shows_others: bool = False  # what other clients ask: for administrators
    changes: bool = False  # what runs: for administrators too
    names_files: bool = False  # its answer has a path of this machine, which must not leave it
    has_events: bool = False  # its answer is a stream of magid's own, without end
    takes_any_by_name: bool = False  # also models of other kinds, where one is named
    removes: bool = False  # files of a model
    downloads: bool = False  # a model of a hub
    is_absent: bool = False  # the answer is 501 always
    target: str = ""  # llama-server's path, where it is another one

    @property
    def upstream(self) -> str:
        """The path at the server."""
        return self.target or self.path

    @property
    def needs_admin(self) -> bool:
        return self.shows_others or self.changes

    @property
    def asks_by_query(self) -> bool:
        """Its `model` is in the query; it has no body."""
        return self.method == "GET" and bool(self.kinds)

    @property
    def reads_messages(self) -> bool:
        """Whether a server may fetch what its messages name by address, if only to count it."""
        return self.kinds == _CHAT

    @property
    def prefix(self) -> str:
        """The path up to its parameter."""
        return self.path.partition("{")[0]


COMPLETION, INFILL = "/completion", "/infill"
MODELS = "/models"  # of llama.cpp's router
UNLOAD = "/models/unload"

_CHAT = frozenset({ModelKind.CHAT})
_ANY = frozenset(ModelKind)
_EMBED = frozenset({ModelKind.EMBEDDING})
_RANK = frozenset({ModelKind.RERANKER})


def _post(path: str, summary: str, kinds: frozenset[ModelKind], generates: bool) -> Endpoint:
    return Endpoint("POST", path, summary, style_of(path), kinds, generates)


def _ollama(
    method: str, path: str, summary: str, kinds: frozenset[ModelKind] = frozenset()
) -> Endpoint:
    """One of Ollama's. Where a server answers, the body decides which of its paths is asked."""
    return Endpoint(method, path, summary, Style.OLLAMA, kinds, generates=kinds == _CHAT)


def _absent(method: str, path: str) -> Endpoint:
    return Endpoint(method, path, "Not here: 501", Style.OLLAMA, is_absent=True)


def style_of(path: str) -> Style:
    """Also of a path that does not exist: a client is known by where it goes. Pure."""
    if path.startswith("/api/"):
        return Style.OLLAMA
    return Style.ANTHROPIC if path.startswith("/v1/messages") else Style.OPENAI


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint("GET", "/v1/models", "Models, aliases, tiers and auto; never waits for a server"),
    Endpoint("GET", "/v1/models/{id}", "One of them"),
    Endpoint(
        "GET",
        MODELS,
        "The same list, with what is being downloaded, for clients of llama.cpp's router",
    ),
    Endpoint("POST", "/models/load", "Start a model's servers; waits for nothing", changes=True),
    Endpoint(
        "POST", UNLOAD, "Stop a model's servers, or a download; waits for nothing", changes=True
    ),
    Endpoint(
        "POST",
        MODELS,
        "Download a model, `ORG/REPO:TAG`; waits for nothing",
        changes=True,
        downloads=True,
    ),
    Endpoint(
        "DELETE",
        MODELS,
        "Remove the files of a model, `?model=`, that no other model needs",
        changes=True,
        removes=True,
    ),
    Endpoint(
        "GET",
        "/models/sse",
        "The status of each model, then each change of one, as server-sent events",
        has_events=True,
    ),
    _post("/v1/chat/completions", "The next message of a conversation", _CHAT, True),
    _post("/v1/completions", "How a text goes on", _CHAT, True),
    _post("/v1/responses", "OpenAI's newer form of a conversation", _CHAT, True),
    _post("/v1/messages", "Anthropic's form of a conversation", _CHAT, True),
    _post("/v1/messages/count_tokens", "How many tokens such a conversation has", _CHAT, False),
    _post("/v1/embeddings", "Texts as vectors", _EMBED, False),
    _post("/v1/rerank", "Documents in the order of their relevance", _RANK, False),
    Endpoint(
        "GET",
        "/props",
        "What a server can do, for llama.cpp's own web client",
        kinds=_ANY,
        names_files=True,
    ),
    Endpoint(
        "GET",
        "/slots",
        "What the slots of a server work on; for administrators",
        kinds=_ANY,
        shows_others=True,
    ),
    _post(COMPLETION, "How a text goes on, in llama-server's own form", _CHAT, True),
    _post(INFILL, "What stands between a beginning and an end of code", _CHAT, True),
    _post("/apply-template", "A conversation as the text that a model gets", _CHAT, False),
    _post("/tokenize", "A text as tokens", _ANY, False),
    _post("/detokenize", "Tokens as a text", _ANY, False),
    _ollama("GET", "/api/version", "The version of Ollama's API that is spoken here"),
    _ollama("GET", "/api/tags", "Models, aliases, tiers and auto, for Ollama's clients"),
    _ollama("GET", "/api/ps", "The models that run"),
    _ollama("POST", "/api/show", "What a model is and can do"),
    _ollama("POST", "/api/chat", "The next message of a conversation", _CHAT),
    _ollama("POST", "/api/generate", "How a text goes on; without one, loads a model", _CHAT),
    _ollama("POST", "/api/embed", "Texts as vectors", _EMBED),
    _ollama("POST", "/api/embeddings", "One text as a vector; the older form", _EMBED),
    _absent("POST", "/api/create"),
    _absent("POST", "/api/copy"),
    _absent("POST", "/api/push"),
    Endpoint(
        "POST",
        "/api/pull",
        "Download a model, `hf.co/ORG/REPO:TAG`, and tell how far it is",
        Style.OLLAMA,
        changes=True,
        downloads=True,
    ),
    Endpoint(
        "DELETE",
        "/api/delete",
        "Remove the files of a model that no other model needs",
        Style.OLLAMA,
        changes=True,
        removes=True,
    ),
)

FOR_ADMINS = frozenset((e.method, e.path) for e in ENDPOINTS if e.needs_admin)
NAME_FILES = frozenset(e.path for e in ENDPOINTS if e.names_files)
_BY_PATH = {(e.method, e.path): e for e in ENDPOINTS}
_MODEL = _BY_PATH["GET", "/v1/models/{id}"]
_OUTSIDE_V1 = sorted(e.path[1:] for e in ENDPOINTS if not e.path.startswith("/v1/"))
# What clients ask for whose base address lacks the /v1.
_WITHOUT_V1 = {e.path[3:]: e.path for e in ENDPOINTS if e.path.startswith("/v1/") and e.kinds}
# llama-server has a second name for it, and both without /v1.
_WITHOUT_V1["/reranking"] = "/v1/rerank"
_NAMES = sorted({*_OUTSIDE_V1, *(path[1:] for path in _WITHOUT_V1)})
# Of the target of a request that is the gateway's, whatever its method: a path, in slips that
# `canonical` knows too, or the same with the address of this daemon before it.
GATEWAY_TARGET = (
    r"(?:[Hh][Tt][Tt][Pp][Ss]?://[^/ ]{1,255})?/{1,4}"
    rf"(?:v1(?=[/? ])|(?:{'|'.join(map(re.escape, _NAMES))})(?=/{{0,4}}[? ]))"
)
_SLASHES = re.compile(r"/{2,}")
_V1_TWICE = re.compile(r"/v1(?:/v1)+(?=/)")


def canonical(path: str) -> str:
    """The path that this one plainly means; itself if it is right, or means nothing. Pure."""
    plain = _SLASHES.sub("/", path)
    plain = _V1_TWICE.sub("/v1", plain.rstrip("/"))
    if plain == "/v1/reranking":
        return "/v1/rerank"
    return _WITHOUT_V1.get(plain, plain or path)


def nearest(path: str) -> str:
    """An endpoint that may have been meant by a path that does not exist; or empty. Pure."""
    at = path.find("/v1/")
    if at > 0 and methods_of(canonical(path[at:])):
        return canonical(path[at:])
    known = [endpoint.path for endpoint in ENDPOINTS if "{" not in endpoint.path]
    return next(iter(get_close_matches(path[:100], known, 1, 0.8)), "")


def find(method: str, path: str) -> Endpoint | None:
    """The endpoint of a request. Pure. Ids may hold a slash, so all below /v1/models/ is one."""
    is_head = method == "HEAD"
    method = "GET" if is_head else method
    found = _BY_PATH.get((method, path))
    if found is not None and is_head and found.kinds:
        return None  # llama-server's answer has a body
    if found is None and method == "GET" and path.startswith(_MODEL.prefix):
        return _MODEL
    return found


_METHODS = ("GET", "HEAD", "POST", "DELETE")


def methods_of(path: str) -> frozenset[str]:
    """The methods that this path has, for the header Allow; empty: no such path. Pure."""
    methods = frozenset(m for m in _METHODS if find(m, path) is not None)
    return methods | {"OPTIONS"} if methods else methods
