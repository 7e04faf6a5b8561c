"""Writes the manual pages into a folder: `manuals.py FOLDER`. Needs magid's own dependencies.

The prose is in packaging/man; options, verbs and settings come from where the programs have them.
SOURCE_DATE_EPOCH is the pages' date.
"""

import os
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from magid import __main__, __version__  # noqa: E402  # needs the line above
from magid.cli import completion_grammar, setting_keys  # noqa: E402  # likewise
from magid.cli import main as cli  # noqa: E402  # likewise
from magid.cli.commands import GROUPS  # noqa: E402  # likewise
from magid.cli.parser import ENVIRONMENT, EXITS  # noqa: E402  # likewise
from magid.config import loading as config  # noqa: E402  # likewise
from magid.llama.options import REFUSED, allowed_options  # noqa: E402  # likewise
from magid.llama.runtime_settings import RuntimeSetting  # noqa: E402  # likewise

PROSE = Path(__file__).resolve().parent / "man"


def roff(text: str) -> str:
    """Plain text as one or more lines of roff(7): nothing of it is taken as a request."""
    safe = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq").replace("'", "\\(aq")
    return "\n".join(textwrap.wrap(safe, 90, break_on_hyphens=False, break_long_words=False))


def options(arguments: Iterable[completion_grammar.Argument]) -> str:
    return "\n".join(f".TP\n{_head(a)}\n{roff(_sentence(a.text))}" for a in arguments)


def _head(argument: completion_grammar.Argument) -> str:
    value = f" \\fI{roff(argument.value)}\\fR" if argument.value else ""
    return ", ".join(f"\\fB{roff(flag)}\\fR" for flag in argument.flags) + value


def _sentence(text: str) -> str:
    is_address = "://" in text.partition(" ")[0]
    return (text[:1] if is_address else text[:1].upper()) + text[1:].rstrip(".") + "."


def verbs(program: completion_grammar.Command) -> str:
    """All verbs, in the groups of --help."""
    found = {verb.name: verb for verb in program.verbs}
    lines = []
    for group, names in GROUPS.items():
        lines += [f".SS {group}", *(_verb(found[name], "") for name in names)]
    return "\n".join(lines)


def _verb(verb: completion_grammar.Command, before: str) -> str:
    """A verb; of a group each of its own."""
    name = f"{before}{verb.name}"
    if verb.verbs:
        return "\n".join(_verb(action, f"{name} ") for action in verb.verbs)
    lines = [".TP", f"\\fB{roff(name)}\\fR {' '.join(map(_operand, verb.operands))}".rstrip()]
    text = _sentence(verb.text)
    text += f" Also: {', '.join(verb.aliases)}." if verb.aliases else ""
    lines.append(roff(text))
    if verb.options:
        lines += [".RS", options(verb.options), ".RE"]
    return "\n".join(lines)


def examples(program: completion_grammar.Command) -> str:
    """Those of all verbs, as they are typed."""
    lines = [line for verb in program.verbs for line in _examples(verb)]
    return "\n".join([".EX", *(roff(line) for line in lines), ".EE"])


def _examples(verb: completion_grammar.Command) -> list[str]:
    return [*verb.examples, *(line for action in verb.verbs for line in _examples(action))]


def explained(table: Mapping[str, str]) -> str:
    return "\n".join(f".TP\n\\fB{roff(k)}\\fR\n{roff(_sentence(v))}" for k, v in table.items())


def _operand(operand: completion_grammar.Argument) -> str:
    words = "|".join(f"\\fB{roff(c)}\\fR" for c in operand.choices)
    text = words or f"\\fI{roff(operand.value)}\\fR"
    text += "..." if operand.repeats else ""
    return text if operand.required else f"[{text}]"


def settings(found: Iterable[config.Setting]) -> str:
    return "\n".join(_setting(setting) for setting in found)


def _setting(setting: config.Setting) -> str:
    lines = [".TP", f"\\fB{roff(setting.key)}\\fR", roff(_sentence(setting.description))]
    if setting.allowed:
        lines.append(f"Allowed: {roff(setting.allowed)}.")
    lines.append(f"Default: {roff(setting.default)}.")
    if setting.variable:
        lines.append(f"Variable: \\fB{roff(setting.variable)}\\fR.")
    return "\n".join(lines)


def keys() -> str:
    return "\n".join(_key(setting) for setting in setting_keys.KEYS)


def _key(setting: RuntimeSetting) -> str:
    lines = [".TP", f"\\fB{roff(setting.key)}\\fR", roff(_sentence(setting.meaning))]
    lines.append(f"Allowed: {roff(setting.allowed)}.")
    lines.append(f"Default: {roff(setting_keys.default_of(setting))}.")
    lines.append(f"Example: {roff(setting_keys.like(setting))}.")
    if setting.options:
        lines.append(f"Option of llama\\-server: {roff(setting.options[0])}.")
    return "\n".join(lines)


def arguments() -> str:
    """What extraArgs may have: each option with its spellings, and what it takes."""
    return "\n".join(
        f".TP\n\\fB{roff(names)}\\fR\n{roff(_sentence(says or 'a switch'))}"
        for names, says in allowed_options().items()
    )


PARTS: dict[str, Callable[[], str]] = {
    "VERSION": lambda: __version__,
    "DATE": lambda: datetime.fromtimestamp(_epoch(), UTC).strftime("%Y-%m-%d"),
    "MAGID_OPTIONS": lambda: options(completion_grammar.read(__main__.parser()).options),
    "MAGICTL_OPTIONS": lambda: options(completion_grammar.read(cli.parser()).options),
    "MAGICTL_VERBS": lambda: verbs(completion_grammar.read(cli.parser())),
    "MAGICTL_EXAMPLES": lambda: examples(completion_grammar.read(cli.parser())),
    "MAGICTL_EXITS": lambda: explained({str(k): v for k, v in EXITS.items()}),
    "MAGICTL_ENVIRONMENT": lambda: explained(ENVIRONMENT),
    "MAGICTL_KEYS": keys,
    "QUOTING": lambda: roff(setting_keys.QUOTING),
    "REFUSED": lambda: roff(REFUSED),
    "ARGUMENTS": arguments,
    "SETTINGS": lambda: settings(config.settings()),
}


def _epoch() -> int:
    return int(os.environ.get("SOURCE_DATE_EPOCH") or datetime.now(UTC).timestamp())


def page(prose: str) -> str:
    """The prose with every @PART@ in its place."""
    for name, part in PARTS.items():
        if f"@{name}@" in prose:
            prose = prose.replace(f"@{name}@", part())
    return prose


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(PROSE.iterdir()):
        (folder / path.name).write_text(page(path.read_text()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
