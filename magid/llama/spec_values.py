"""What a server was started with, as far as it can be told, and how that differs from a spec. Pure.

A running server's hash says that something differs. The values here say what: those of a spec, or
those that the command line of a running server shows. A field that is missing is unknown.
"""

import shlex
from collections.abc import Mapping, Sequence
from typing import Final

from magid.llama.placement import Placement, options_of
from magid.llama.runtime_settings import SERVER_SETTINGS, RuntimeSetting
from magid.llama.setting_values import Integer
from magid.llama.spec import ServerSpec

SpecValues = tuple[tuple[str, str | None], ...]  # field of ServerSpec -> its text; None: not set

_OWN: Final = {"--model": "model_path", "--mmproj": "mmproj_path", "--host": "host"}
_OPTIONS: Final = {o: setting.name for setting in SERVER_SETTINGS for o in setting.options}
_SKIPPED: Final = frozenset({"--alias", "--port", "--api-key-file", "--cors-origins", "--rpc"})
_BESIDE: Final = frozenset({"--spec-type", "--spec-draft-model", "--model-draft", "--lora-scaled"})
_PLACED: Final = frozenset({"--fit", "--fit-target", "--tensor-split"})
_BOUND: Final = frozenset({"--cache-ram"})  # there is none where the user has set one
_FLAGS: Final = frozenset({"--metrics", "--no-ui", "--no-webui", "--offline"}) | frozenset(
    {"--embeddings", "--embedding", "--reranking", "--rerank"}
)
# They are in no command line.
_ASIDE: Final = ("memory_max", "cpu_quota", "offload", "draft", "engine")


def of_spec(spec: ServerSpec) -> SpecValues:
    """Returns all values of the spec."""
    fields = (*_OWN.values(), *_OPTIONS.values(), *_ASIDE)
    found = {name: getattr(spec, name) for name in fields}
    texts = {name: None if value is None else str(value) for name, value in found.items()}
    return tuple({**texts, "extra_args": shlex.join(spec.extra_args) or None}.items())


def of_command(argv: Sequence[str], placement: Placement | None = None) -> SpecValues:
    """Returns the values that an argument list of `arguments.server_argv` shows.

    What the placement has decided is no value of the spec. Nothing is known of another command.
    """
    found: dict[str, str | None] = dict.fromkeys((*_OWN.values(), *_OPTIONS.values()))
    words = iter(argv[1:])
    placed = _placed(placement)
    extra: list[str] = []
    for word in words:
        if name := _OWN.get(word) or _OPTIONS.get(word):
            found[name] = next(words, None)
        elif word in _BESIDE and found["host"] is None:
            next(words, None)  # magid's own come before --host
        elif word in _SKIPPED or word in placed:
            next(words, None)
        elif word not in _FLAGS:
            extra = [word, *words]  # the user's arguments come last
    if found["model_path"] is None:
        return ()
    unset = dict.fromkeys(options_of(placement))
    return tuple({**found, **unset, "extra_args": shlex.join(extra) or None}.items())


def _placed(placement: Placement | None) -> frozenset[str]:
    """Returns the options that a placement leads to beside those of settings. Pure."""
    if placement is None:
        return frozenset()
    bound = frozenset() if placement.cache_ram is None else _BOUND
    return bound | (_PLACED if placement.source == "predicted" else frozenset())


def differences(running: SpecValues, spec: ServerSpec) -> str:
    """Returns why a server with these values has another hash than `spec`, in a person's words."""
    if not running:
        return "its settings or its file changed"
    wanted = dict(of_spec(spec))
    known = dict(running)
    changed = [
        f"{setting.key} {_shown(setting, known[name])} -> {_shown(setting, wanted[name])}"
        for setting in SERVER_SETTINGS
        if (name := setting.name) in known and known[name] != wanted[name]
    ]
    if known["host"] != wanted["host"]:
        changed.append(f"host {known['host']} -> {wanted['host']}")
    said = [f"settings changed: {', '.join(changed)}"] if changed else []
    said += _files(known, wanted)
    if said:
        return "; ".join(said)
    is_complete = all(name in known for name in _ASIDE)
    return (
        "its file changed" if is_complete else "its file, engine, limit, offload or draft changed"
    )


def _files(known: Mapping[str, str | None], wanted: Mapping[str, str | None]) -> list[str]:
    said = []
    if known["model_path"] != wanted["model_path"]:
        said.append(f"its file is now {wanted['model_path']}")
    if known["mmproj_path"] != wanted["mmproj_path"]:
        projector = wanted["mmproj_path"]
        said.append(f"its projector is now {projector}" if projector else "it has no projector now")
    return said


def _shown(setting: RuntimeSetting, text: str | None) -> str:
    if text is None:
        return "not set"
    is_number = isinstance(setting.values, Integer) and text.removeprefix("-").isdecimal()
    return setting.values.show(int(text)) if is_number else text
