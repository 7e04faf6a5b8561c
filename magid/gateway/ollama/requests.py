"""Requests of Ollama's API as llama-server takes them. Pure.

What llama-server does not know is left out: it belongs to how a server runs (`num_ctx`), to
Ollama's own memory (`keep_alive`, `context`), or to its files. What would change an answer and
cannot be done is refused. Malformed parts go on as they are: llama-server refuses them.
"""

import re
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec.structs import replace

from magid.errors import InvalidInput
from magid.gateway.routing.endpoints import INFILL, Endpoint

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
EMBEDDINGS, LOAD = "/v1/embeddings", "/tokenize"  # a text of no token only needs the model to run
UNLOAD = ""  # no server is asked
Fields = dict[str, Any]

_OPTIONS = {
    "num_keep": "n_keep",
    **{
        name: name
        for name in (
            "frequency_penalty", "min_p", "mirostat", "mirostat_eta", "mirostat_tau",
            "presence_penalty", "repeat_last_n", "repeat_penalty", "seed", "stop", "temperature",
            "top_k", "top_p", "typical_p",
        )
    },
}  # fmt: skip


def translated(endpoint: Endpoint, fields: Mapping[str, Any]) -> tuple[Endpoint, Fields]:
    """The request as a server takes it, and the endpoint with the server's path.

    Raises InvalidInput.
    """
    match endpoint.path:
        case "/api/chat":
            target, body = _chat(fields)
        case "/api/generate":
            target, body = _generate(fields)
        case _:
            target, body = _embed(endpoint.path, fields)
    if target in (LOAD, UNLOAD):
        endpoint = replace(endpoint, takes_any_by_name=True, generates=False)
    body = {"model": fields.get("model", "auto"), **body}
    return replace(endpoint, target=target), body


# -- conversations and texts -------------------------------------------------------------------


def _chat(fields: Mapping[str, Any]) -> tuple[str, Fields]:
    messages = fields.get("messages")
    if not messages and not fields.get("tools"):
        return _load_or_unload(fields)
    body = {"messages": _messages(messages) if isinstance(messages, list) else messages}
    if fields.get("tools"):
        body["tools"] = fields["tools"]
    return CHAT, {**body, **_common(fields, CHAT)}


def _generate(fields: Mapping[str, Any]) -> tuple[str, Fields]:
    prompt, images = fields.get("prompt") or "", fields.get("images")
    if fields.get("template"):
        raise InvalidInput(
            "cannot use `template`: a model's own template is used; leave it out, or send the "
            "whole prompt with raw: true",
            field="template",
        )
    if fields.get("suffix"):
        _refuse(fields, ("images", "system"), "with `suffix`")
        body = {"input_prefix": prompt, "input_suffix": fields["suffix"], "prompt": ""}
        return INFILL, {**body, **_common(fields, INFILL)}
    if not prompt and not images:
        return _load_or_unload(fields)
    if fields.get("raw"):
        _refuse(fields, ("images", "system"), "with raw: true, where the prompt is all there is")
        return COMPLETIONS, {"prompt": prompt, **_common(fields, COMPLETIONS)}
    system = fields.get("system")
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt, "images": images})
    return CHAT, {"messages": _messages(messages), **_common(fields, CHAT)}


def _refuse(fields: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
    for name in names:
        if fields.get(name):
            raise InvalidInput(f"cannot use `{name}` {where}; leave it out", field=name)


# A duration of Go, as its clients write it: 0, "0s", "0h0m", "-0.0ms".
_NO_TIME = re.compile(r"-?(?:0+(?:\.0*)?(?:ns|us|µs|ms|[hms])?)+")


def _load_or_unload(fields: Mapping[str, Any]) -> tuple[str, Fields]:
    """Without a text, Ollama loads the model, or unloads it if `keep_alive` is 0."""
    is_over = _NO_TIME.fullmatch(str(fields.get("keep_alive"))[:100]) is not None
    return (UNLOAD, {}) if is_over else (LOAD, {"content": ""})


def _common(fields: Mapping[str, Any], target: str) -> Fields:
    """What conversations and texts have in common, in the words of this path."""
    options = fields.get("options")
    given = options if isinstance(options, dict) else {}
    body = {
        _OPTIONS[name]: value
        for name, value in given.items()
        if name in _OPTIONS and value is not None
    }
    tokens = given.get("num_predict")
    if isinstance(tokens, int) and tokens > 0:  # -1: without a limit
        body["n_predict" if target == INFILL else "max_tokens"] = tokens
    if fields.get("logprobs"):
        body["logprobs"] = True
        # llama-server 0.7.0 gives none at all for 0.
        body["top_logprobs"] = fields.get("top_logprobs") or 1
    if fields.get("stream", True) is not False:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body | _format(fields.get("format"), target) | _thinking(fields.get("think"))


def _format(wanted: object, target: str) -> Fields:
    if not wanted:
        return {}
    if target != CHAT and (wanted == "json" or isinstance(wanted, dict)):
        # Only conversations have `response_format`; other paths ignore it.
        return {"json_schema": {"type": "object"} if wanted == "json" else wanted}
    if wanted == "json":
        return {"response_format": {"type": "json_object"}}
    if isinstance(wanted, dict):
        schema = {"name": "answer", "schema": wanted}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    raise InvalidInput('cannot use `format`: it is neither "json" nor a schema', field="format")


_EFFORTS = ("low", "medium", "high", "max")


def _thinking(wanted: object) -> Fields:
    """Variables of chat templates: a template that has none of these ignores them."""
    if wanted is None:
        return {}
    if isinstance(wanted, bool):
        return {"chat_template_kwargs": {"enable_thinking": wanted}}
    if wanted in _EFFORTS:
        effort = "high" if wanted == "max" else wanted
        return {"chat_template_kwargs": {"enable_thinking": True, "reasoning_effort": effort}}
    raise InvalidInput(
        f"cannot use `think`: it is neither true nor false, nor one of {', '.join(_EFFORTS)}",
        field="think",
    )


# -- messages ----------------------------------------------------------------------------------


def _messages(messages: list[Any]) -> list[Any]:
    calls = _Calls()
    return [_message(m, calls) if isinstance(m, dict) else m for m in messages]


class _Calls:
    """Tells which call an answer of a tool belongs to: Ollama's have no ids, only an order.

    The answer of a tool belongs to the oldest open call of its name, else to the oldest one. Each
    call and each answer costs the same, however many are open.
    """

    def __init__(self) -> None:
        self._made = 0
        self._open: dict[str, None] = {}  # ids, the oldest first
        self._by_name: defaultdict[str, deque[str]] = defaultdict(deque)  # with closed ones

    def new(self, name: object) -> str:
        self._made += 1
        made = f"call_{self._made}"
        self._open[made] = None
        if isinstance(name, str):
            self._by_name[name].append(made)
        return made

    def answered(self, name: object) -> str:
        found = self._named(name) if isinstance(name, str) else None
        found = found or next(iter(self._open), "call_0")
        self._open.pop(found, None)
        return found

    def _named(self, name: str) -> str | None:
        ids = self._by_name.get(name)
        while ids:
            found = ids.popleft()
            if found in self._open:
                return found
        return None


def _message(message: Mapping[str, Any], calls: _Calls) -> Fields:
    role = message.get("role", "user")
    made: Fields = {"role": role, "content": message.get("content") or ""}
    if message.get("images"):
        made["content"] = [*_parts(made["content"], message["images"])]
    if message.get("thinking"):
        made["reasoning_content"] = message["thinking"]
    if isinstance(message.get("tool_calls"), list):
        made["tool_calls"] = [_call(call, calls) for call in message["tool_calls"]]
    if role == "tool":
        name = message.get("tool_name") or message.get("name")
        made["tool_call_id"] = message.get("tool_call_id") or calls.answered(name)
    return made


def _parts(text: str, images: object) -> Iterator[Fields]:
    if text:
        yield {"type": "text", "text": text}
    for image in images if isinstance(images, list) else [images]:
        # llama-server goes by what the bytes are, and not by the type that is said.
        yield {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}}


def _call(call: Any, calls: _Calls) -> Any:
    """`arguments` stays the object that it is: llama-server takes one, and a text too."""
    if not isinstance(call, dict) or not isinstance(call.get("function"), dict):
        return call
    function = call["function"]
    name, arguments = function.get("name"), function.get("arguments", {})
    return {
        "id": calls.new(name),
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


# -- vectors -----------------------------------------------------------------------------------


def _embed(path: str, fields: Mapping[str, Any]) -> tuple[str, Fields]:
    if fields.get("dimensions"):
        raise InvalidInput(
            "cannot use `dimensions`: vectors are as long as the model makes them; leave it out",
            field="dimensions",
        )
    name = "input" if path == "/api/embed" else "prompt"
    return EMBEDDINGS, {"input": fields.get(name, "")}
