"""Puts what a variant brings along into a request, in the words of its API. Pure.

First goes what it strips; then come its system prompt, its reasoning, its defaults, and what it
sets. llama-server 0.7.0 takes other names for some parameters from one path to the next.
"""

from collections.abc import Mapping
from typing import Any

from magid.catalog.aliases import Variant
from magid.errors import InvalidInput
from magid.gateway.routing.endpoints import COMPLETION, INFILL, Endpoint
from magid.gateway.routing.fleet import ChosenVariant, Fleet
from magid.gateway.routing.resolver import LATEST

Fields = dict[str, Any]

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
_ANTHROPIC = ("/v1/messages", "/v1/messages/count_tokens")
_CONVERSATIONS = frozenset((CHAT, RESPONSES, *_ANTHROPIC))
_TEXTS = frozenset((COMPLETIONS, COMPLETION, INFILL))
# Paths whose bodies have parameters: tokens of a text, say, have none.
_PATHS = _CONVERSATIONS | _TEXTS | {"/v1/embeddings", "/v1/rerank"}

# Parameters of several names, and the name at a path where it is not the first one.
_SYNONYMS: tuple[tuple[tuple[str, ...], Mapping[str, str]], ...] = (
    (
        ("max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict"),
        {RESPONSES: "max_output_tokens", COMPLETION: "n_predict", INFILL: "n_predict"},
    ),
    (("stop", "stop_sequences"), dict.fromkeys(_ANTHROPIC, "stop_sequences")),
)
_VARIABLES = "chat_template_kwargs"  # of the template: taken one by one


def find(name: str, fleet: Fleet) -> ChosenVariant | None:
    """The variant that this name leads to, as `resolver.by_name` goes."""
    if not fleet.variants:
        return None
    if name not in fleet.aliases:
        name = name.removesuffix(LATEST)
    return fleet.variants.get(name)


def applied(chosen: ChosenVariant, endpoint: Endpoint, fields: Mapping[str, Any]) -> Fields:
    """The fields with what the variant brings along. Long strings in them may be marks.

    Raises InvalidInput where the path has no place for a system prompt.
    """
    path, variant, made = endpoint.upstream, chosen.parameters, dict(fields)
    if path not in _PATHS:
        return made
    for name in variant.strip:
        _drop(made, _words(name, path)[1])
    if path in _CONVERSATIONS:
        _add_system(made, path, variant.system)
        _set_reasoning(made, path, variant.reasoning)
    elif variant.system and path in _TEXTS:
        raise _no_place(chosen, endpoint)
    _set_parameters(made, path, variant)
    return made


def _no_place(chosen: ChosenVariant, endpoint: Endpoint) -> InvalidInput:
    return InvalidInput(
        f"cannot answer for {chosen.name!r}: it has a system prompt, and a text that is continued "
        f"at {endpoint.path} has no place for one; ask for {chosen.parameters.model!r}, or send a "
        "conversation",
        field="model",
    )


# -- parameters --------------------------------------------------------------------------------


def _set_parameters(made: Fields, path: str, variant: Variant) -> None:
    for name, value in variant.defaults.items():
        word, words = _words(name, path)
        if name == _VARIABLES and isinstance(value, dict) and isinstance(made.get(name), dict):
            made[name] = {**value, **made[name]}
        elif all(made.get(each) is None for each in words):
            _put(made, path, word, words, value)
    for name, value in variant.set.items():
        if name == _VARIABLES and isinstance(value, dict):
            _set_variables(made, value)
        else:
            _put(made, path, *_words(name, path), value)


def _words(name: str, path: str) -> tuple[str, tuple[str, ...]]:
    """The name of a parameter at this path, and all its names."""
    for names, others in _SYNONYMS:
        if name in names:
            return others.get(path, names[0]), names
    return name, (name,)


def _put(made: Fields, path: str, word: str, words: tuple[str, ...], value: Any) -> None:
    _drop(made, words)
    is_list = word == "stop_sequences" and isinstance(value, str)  # the others take a text too
    made[word] = [value] if is_list else value


def _drop(made: Fields, words: tuple[str, ...]) -> None:
    for word in words:
        made.pop(word, None)


def _set_variables(made: Fields, values: Mapping[str, Any]) -> None:
    own = made.get(_VARIABLES)
    made[_VARIABLES] = {**own, **values} if isinstance(own, dict) else dict(values)


# -- reasoning ---------------------------------------------------------------------------------

# How a client says the same.
_OWN = ("reasoning_effort", "thinking", "thinking_budget_tokens", "reasoning_budget_tokens")


def _set_reasoning(made: Fields, path: str, budget: int | None) -> None:
    """A template that knows no `enable_thinking` ignores it; the budget holds in any case."""
    if budget is None:
        return
    _drop(made, _OWN)
    own = made.get("reasoning")
    if isinstance(own, dict):
        made["reasoning"] = {name: value for name, value in own.items() if name != "effort"}
    _set_variables(made, {"enable_thinking": budget != 0})
    if budget < 0:
        return
    if path in _ANTHROPIC:
        made["thinking"] = {"type": "enabled", "budget_tokens": budget}
    else:
        made["thinking_budget_tokens"] = budget


# -- the system prompt -------------------------------------------------------------------------

_SYSTEM_ROLES = ("system", "developer")


def _add_system(made: Fields, path: str, text: str) -> None:
    """Before the client's own, and in one message with it: templates refuse two in a row."""
    if not text:
        return
    if path in _ANTHROPIC:
        made["system"] = _joined(text, made.get("system"), "text")
    elif path == CHAT:
        made["messages"] = _with_first(text, made.get("messages"), "text")
    elif made.get("instructions") or not _begins_with_system(made.get("input")):
        made["instructions"] = _joined(text, made.get("instructions"), "text")
    else:
        made["input"] = _with_first(text, made["input"], "input_text")


def _begins_with_system(messages: object) -> bool:
    match messages:
        case [{"role": role}, *_]:
            return role in _SYSTEM_ROLES
        case _:
            return False


def _with_first(text: str, messages: Any, kind: str) -> Any:
    """The messages with this text at their beginning; others than messages are left alone."""
    if not isinstance(messages, list) or not messages:
        return messages
    if not _begins_with_system(messages):
        return [{"role": "system", "content": text}, *messages]
    first, *others = messages
    return [{**first, "content": _joined(text, first.get("content"), kind)}, *others]


def _joined(text: str, own: Any, kind: str) -> Any:
    """Both, where the client's own is a text or parts; else its own, for llama-server to refuse."""
    if own is None or own == "":
        return text
    if isinstance(own, str):
        return f"{text}\n\n{own}"
    return [{"type": kind, "text": text}, *own] if isinstance(own, list) else own
