"""What a command line understands, read from its parser: for manuals and completions."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Argument:
    """An option, or without `flags` what stands by itself."""

    name: str  # as the program calls it: model, models, tier
    flags: tuple[str, ...]
    value: str  # what stands for its value in a usage line; empty for a switch
    choices: tuple[str, ...]
    text: str
    repeats: bool
    required: bool


@dataclass(frozen=True, slots=True)
class Command:
    """A program, or one verb of it."""

    name: str
    text: str
    arguments: tuple[Argument, ...]
    verbs: tuple["Command", ...] = ()

    @property
    def options(self) -> tuple[Argument, ...]:
        return tuple(a for a in self.arguments if a.flags)

    @property
    def operands(self) -> tuple[Argument, ...]:
        return tuple(a for a in self.arguments if not a.flags)


def read(parser: argparse.ArgumentParser) -> Command:
    """The program that this is the parser of, without -h, which all have."""
    verbs: list[Command] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            texts = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, sub in action.choices.items():
                verbs.append(Command(name, texts[name], tuple(_arguments(sub))))
    arguments = tuple(_arguments(parser))
    return Command(parser.prog, parser.description or "", arguments, tuple(verbs))


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
