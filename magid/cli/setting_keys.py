"""The keys of `magictl set`: what each means and takes, and how a person writes its value. Pure.

The run-time settings, of which the table is `llama.runtime_settings`, and two more, for which the
API has routes of their own. Importing it takes some milliseconds: only `set` and its help do.
"""

import textwrap
from collections.abc import Iterator
from typing import Any, Final

from magid.cli import errors
from magid.cli.client import Refused
from magid.llama.options import REFUSED, allowed_options
from magid.llama.runtime_settings import SETTINGS, RuntimeSetting
from magid.llama.setting_values import Choice, Integer

PORT: Final = RuntimeSetting(
    Integer(1024, 65_535),
    "Port of the model's first server, within port_range of magid.yaml",
    unset="magid chooses",
    example="8085",
    options=("--port",),
    name="port",
)
ENABLED: Final = RuntimeSetting(
    Choice(("yes", "no")),
    "Whether the model runs, whatever the profile says",
    unset="as the profile says",
    example="yes",
    options=(),
    name="enabled",
)
KEYS: Final = (*SETTINGS, PORT, ENABLED)
NAMES: Final = tuple(setting.key for setting in KEYS)
QUOTING: Final = (
    "One word of the shell, so quote it: extraArgs='--temp 0.2 --flash-attn on'. It is split as a "
    "shell does, never run by one, and takes the place of all extra arguments that were set."
)
_ANSWERS: Final = {"yes": True, "true": True, "no": False, "false": False}
_HELP: Final = "\ntry: magictl set --help"
_WIDTH: Final = 96


def parse(text: str) -> tuple[str, Any]:
    """Returns key and value of `ctxSize=8192`, as the API takes them; None for the default.

    A key may be spelled ctx-size too. Raises Refused for what magid would not take.
    """
    word, sign, value = text.partition("=")
    setting = _named(word)
    if not sign:
        raise Refused(
            f"cannot set {setting.key}: it has no value; give {like(setting)}, or {setting.key}= "
            f"for its default{_HELP}",
            2,
        )
    if value == "":
        return setting.key, None
    try:
        return setting.key, _value(setting, value)
    except ValueError as error:
        example = like(setting) if " " in setting.example else setting.example
        raise Refused(
            f"cannot set {setting.key}={value}: it {error} (for example {example}){_HELP}", 2
        ) from None


def _value(setting: RuntimeSetting, text: str) -> Any:
    if setting is ENABLED:
        return _ANSWERS[text] if text in _ANSWERS else setting.values.parse(text)
    value = setting.values.parse(text)
    if isinstance(value, tuple):
        _check_words(value)
        return list(value)
    return value


def _check_words(words: tuple[str, ...]) -> None:
    """Raises Refused for an option that has a key; magid decides about the others."""
    for other in KEYS:
        for word in words:
            if word.partition("=")[0] in other.options:
                raise Refused(
                    f"cannot set {word} in extraArgs: it has a key of its own, {other.key}\n"
                    f"try: magictl set MODEL {like(other)}",
                    2,
                )


def _named(word: str) -> RuntimeSetting:
    spelled = {setting.key.lower(): setting for setting in KEYS}
    found = spelled.get(word.replace("-", "").replace("_", "").lower())
    if found:
        return found
    near = errors.like(word, NAMES)
    advice = f"\ndid you mean {near!r}?" if near else ""
    raise Refused(f"cannot set {word!r}: known are {', '.join(NAMES)}{advice}{_HELP}", 2)


def like(setting: RuntimeSetting) -> str:
    """Returns an example as it is typed: `ctxSize=8192`."""
    value = setting.example
    return f"{setting.key}={value}" if " " not in value else f"{setting.key}='{value}'"


# -- explained -------------------------------------------------------------------------------


def default_of(setting: RuntimeSetting) -> str:
    """Returns what counts while neither the user nor magid.yaml has set it."""
    return setting.unset or setting.show(setting.default) or "none"


def explain() -> str:
    """Returns the part of `magictl set --help` that explains the keys."""
    lines = ["keys:"]
    for setting in KEYS:
        lines += [f"  {like(setting)}", *_indented(f"{setting.meaning}.")]
        lines += _indented(f"{setting.allowed}; default: {default_of(setting)}")
    allowed = ", ".join(names.rpartition(" ")[2] for names in allowed_options())
    return "\n".join(
        [
            *lines,
            *("", "server_defaults in magid.yaml has the defaults of all models.", ""),
            *("extraArgs:", *_indented(QUOTING), *_indented(REFUSED)),
            *_indented(f"Allowed: {allowed}; magictl(1) describes their values."),
            "",
        ]
    )


def _indented(text: str) -> Iterator[str]:
    yield from textwrap.wrap(
        text, _WIDTH, initial_indent="      ", subsequent_indent="      ",
        break_on_hyphens=False, break_long_words=False,
    )  # fmt: skip
