"""Answers of llama-server in the shapes of Ollama's API. Pure.

The shape goes by the path that was asked: /api/chat has a message, /api/generate a text. What a
server says may have been made by an attacker: any value can be of any type.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct

from magid.gateway.ollama.models import timestamp
from magid.http.framing import ProtocolError
from magid.http.json_text import from_json
from magid.http.limits import MAX_COLLECTED_BYTES

Line = dict[str, Any]
_MOST_NS = 2**62


class Shape(Struct, frozen=True):
    """How the lines of one answer look. `name`: the model as the client called it."""

    path: str
    name: str

    def line(self, text: str, thinking: str = "", calls: list[Line] | None = None) -> Line:
        """A part of the answer."""
        made: Line = {"model": self.name, "created_at": timestamp(datetime.now(UTC))}
        thoughts = {"thinking": thinking} if thinking else {}
        if self.path == "/api/chat":
            tools = {"tool_calls": calls} if calls else {}
            made["message"] = {"role": "assistant", "content": text, **thoughts, **tools}
        else:
            made |= {"response": text, **thoughts}
        return {**made, "done": False}

    def last(self, reason: str, figures: Mapping[str, int]) -> Line:
        return {**self.line(""), "done": True, "done_reason": reason, **figures}


class AnswerParts:
    """Collects what the parts of one answer tell: `lines` translates each as it comes."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._calls: dict[int, list[str]] = {}  # name and arguments, by their place
        self._size = 0
        self._reason = ""
        self._told: dict[str, Any] = {}  # usage and timings
        self.has_failed = False

    def lines(self, part: object) -> Iterator[Line]:
        """The lines of one event. Raises ProtocolError for calls that never end."""
        if not isinstance(part, dict) or self.has_failed:
            return
        if "error" in part:
            self.has_failed = True
            yield {"error": _text(_dict(part["error"]).get("message")) or "the answer broke off"}
            return
        self._told |= {n: part[n] for n in ("usage", "timings") if isinstance(part.get(n), dict)}
        choice = _choice(part)
        self._reason = _text(choice.get("finish_reason") or part.get("stop_type")) or self._reason
        said = _dict(choice.get("delta") or choice.get("message"))
        self._collect(said.get("tool_calls"))
        text, thinking = _text(said.get("content")), _text(said.get("reasoning_content"))
        text = text or _text(choice.get("text")) or _text(part.get("content"))
        probabilities = _dict(choice.get("logprobs")).get("content")
        if text or thinking or probabilities:
            line = self._shape.line(text, thinking)
            yield {**line, "logprobs": probabilities} if probabilities else line

    def _collect(self, calls: object) -> None:
        for place, call in enumerate(calls if isinstance(calls, list) else ()):
            function = _dict(_dict(call).get("function"))
            index = _dict(call).get("index", place)
            kept = self._calls.setdefault(index if isinstance(index, int) else place, ["", ""])
            for at, name in enumerate(("name", "arguments")):
                text = _text(function.get(name))
                kept[at] += text
                self._size += len(text) + 1
        if self._size > MAX_COLLECTED_BYTES:
            raise ProtocolError("its calls of tools have no end")

    def end(self, took_ns: int) -> Iterator[Line]:
        """The calls of tools, then the last line."""
        if self.has_failed:
            return
        calls = [{"function": f} for _, call in sorted(self._calls.items()) if (f := _call(*call))]
        if calls:
            yield self._shape.line("", calls=calls)
        reason = "length" if self._reason in ("length", "limit") else "stop"
        yield self._shape.last(reason, _figures(self._told, took_ns))

    def whole(self, answer: object, took_ns: int) -> Line:
        """An answer that came in one piece, as one line."""
        made: Line = {}
        calls: list[Line] = []
        texts = thoughts = ""
        for line in (*self.lines(answer), *self.end(took_ns)):
            if "error" in line:
                return line
            said = line.get("message", line)
            texts += said.get("content", said.get("response", ""))
            thoughts += said.get("thinking", "")
            calls += said.get("tool_calls", [])
            made |= line
        return {**made, **{n: v for n, v in self._shape.line(texts, thoughts, calls).items()
                           if n != "done"}}  # fmt: skip


def _choice(part: Mapping[str, Any]) -> Mapping[str, Any]:
    match part.get("choices"):
        case [dict(first), *_]:
            return first
        case _:
            return {}


def _call(name: str, arguments: str) -> Line | None:
    """Returns None for an incomplete call: the answer ended before its arguments did."""
    try:
        parsed = from_json(arguments or "{}")
    except ValueError:
        return None
    return {"name": name, "arguments": parsed} if name and isinstance(parsed, dict) else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _figures(part: Mapping[str, Any], took_ns: int) -> dict[str, int]:
    """Durations in nanoseconds. Unknown ones are 0."""
    usage, timings = _dict(part.get("usage")), _dict(part.get("timings"))
    read_ns, written_ns = (_ns(timings.get(name)) for name in ("prompt_ms", "predicted_ms"))
    return {
        "total_duration": took_ns,
        "load_duration": max(0, took_ns - read_ns - written_ns),
        "prompt_eval_count": _prompt_tokens(usage, timings),
        "prompt_eval_duration": read_ns,
        "eval_count": _count(usage.get("completion_tokens", timings.get("predicted_n"))),
        "eval_duration": written_ns,
    }


def _prompt_tokens(usage: Mapping[str, Any], timings: Mapping[str, Any]) -> int:
    """All of the prompt, as Ollama counts: in `timings` what the server had in its cache is apart.

    Of a text with a suffix there are only those.
    """
    if "prompt_tokens" in usage:
        return _count(usage["prompt_tokens"])
    return min(_count(timings.get("prompt_n")) + _count(timings.get("cache_n")), _MOST_NS)


def _ns(milliseconds: object) -> int:
    """Of any number that JSON may have: also no number, and more digits than a float can have."""
    if not isinstance(milliseconds, int | float) or not milliseconds > 0:
        return 0
    return int(min(milliseconds, _MOST_NS / 1e6) * 1e6)


def _count(value: object) -> int:
    return min(max(0, value), _MOST_NS) if isinstance(value, int) else 0
