"""The grammar of a command line, read from its argparse parser, for manuals and completions."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Argument:
    """An option; an operand if `flags` is empty."""

    name: str  # argparse's dest: model, models, tier
    flags: tuple[str, ...]
    value: str  # the placeholder of its value in a usage line; empty for a switch
    choices: tuple[str, ...]
    text: str
    repeats: bool
    required: bool


@dataclass(frozen=True, slots=True)
class Command:
    """A program, a verb of it, or an action of a verb."""

    name: str
    text: str
    arguments: tuple[Argument, ...]
    verbs: tuple["Command", ...] = ()
    aliases: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()

    @property
    def options(self) -> tuple[Argument, ...]:
        return tuple(a for a in self.arguments if a.flags)

    @property
    def operands(self) -> tuple[Argument, ...]:
        return tuple(a for a in self.arguments if not a.flags)

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)


def read(parser: argparse.ArgumentParser) -> Command:
    """Returns the parser's program, without -h, which every program has."""
    return _command(parser, parser.prog, parser.description or "", ())


def _command(
    parser: argparse.ArgumentParser, name: str, text: str, aliases: tuple[str, ...]
) -> Command:
    verbs = tuple(
        command
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for command in _verbs(action)
    )
    examples: tuple[str, ...] = getattr(parser, "examples", ())
    return Command(name, text, tuple(_arguments(parser)), verbs, aliases, examples)


def _verbs(action: "argparse._SubParsersAction[argparse.ArgumentParser]") -> Iterator[Command]:
    """Yields one command for each parser. The first of its names is its own, the others aliases."""
    texts = {choice.dest: choice.help or "" for choice in action._choices_actions}
    names: dict[int, list[str]] = {}
    for name, parser in action.choices.items():
        names.setdefault(id(parser), []).append(name)
    for first, *aliases in names.values():
        yield _command(action.choices[first], first, texts[first], tuple(aliases))


def _arguments(parser: argparse.ArgumentParser) -> Iterator[Argument]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction | argparse._HelpAction):
            continue
        choices = tuple(map(str, action.choices or ()))
        metavar = action.metavar if isinstance(action.metavar, str) else None
        yield Argument(
            name=action.dest,
            flags=tuple(action.option_strings),
            value="" if action.nargs == 0 else metavar or action.dest.upper(),
            choices=choices,
            text=action.help or "",
            repeats=action.nargs in ("+", "*"),
            required=action.nargs not in ("?", "*"),
        )
