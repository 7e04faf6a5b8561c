"""Writes completions of magictl for bash, zsh and fish: `completions.py ROOT`, below ROOT.

Verbs, options and choices come from magictl's own parser; models and profiles from the daemon, at
the moment the key is pressed.
"""

import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

import commands  # noqa: E402  # needs the line above

from magid import cli  # noqa: E402  # likewise

# What a person names, and the command that lists it. Nothing is said where the daemon is not there.
LISTS = {
    "models": "magictl ls 2>/dev/null | sed 1d | cut -d' ' -f1",
    "profiles": "magictl profile ls 2>/dev/null | cut -d' ' -f1",
}
KINDS = {"model": "models", "models": "models", "name": "profiles"}  # by an operand's name


def _flags(command: commands.Command) -> str:
    return " ".join(flag for option in command.options for flag in option.flags)


def _values(command: commands.Command) -> dict[str, tuple[str, ...]]:
    """Option -> its choices, of those that take a value; none where anything may be typed."""
    return {flag: o.choices for o in command.options if o.value for flag in o.flags}


# --- bash -----------------------------------------------------------------------------------

BASH = """\
# bash completion of magictl(1)
_magictl()
{
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    local verb='' word words='' flags='-h --help' operand=0 i
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        case $word in
            %(valued)s) ((i++)) ;;
            -*) ;;
            *) if [[ -z $verb ]]; then verb=$word; else ((++operand)); fi ;;
        esac
    done
    case $prev in
        %(valued)s) return ;;
    esac
    case $verb in
        '') words='%(verbs)s' flags+=' %(flags)s' ;;
%(cases)s
    esac
    [[ $cur != -* ]] || words=$flags
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}
complete -F _magictl magictl
"""


def bash(program: commands.Command) -> str:
    everywhere = (program, *program.verbs)
    valued = sorted({flag for command in everywhere for flag in _values(command)})
    return BASH % {
        "valued": "|".join(valued),
        "verbs": " ".join(verb.name for verb in program.verbs),
        "flags": _flags(program),
        "cases": "\n".join(map(_bash_case, program.verbs)),
    }


def _bash_case(verb: commands.Command) -> str:
    lines = [f"        {verb.name}) flags+=' {_flags(verb)}'"]
    for number, operand in enumerate(verb.operands):
        words = _bash_words(operand)
        if words and operand.repeats:
            lines.append(f"            ((operand >= {number})) && words+={words}")
        elif words:
            lines.append(f"            ((operand == {number})) && words+={words}")
    return "\n".join([*lines, "            ;;"])


def _bash_words(operand: commands.Argument) -> str:
    if operand.choices:
        return f"' {' '.join(operand.choices)}'"
    kind = KINDS.get(operand.name)
    return f'" $({LISTS[kind]})"' if kind else ""


# --- zsh ------------------------------------------------------------------------------------

ZSH = """\
#compdef magictl
# zsh completion of magictl(1)
_magictl_models() {
    local -a found=(${(f)"$(%(models)s)"})
    compadd -a found
}
_magictl_profiles() {
    local -a found=(${(f)"$(%(profiles)s)"})
    compadd -a found
}
_magictl() {
    local curcontext=$curcontext state line
    local -a verbs=(
%(verbs)s
    )
    _arguments -C \\
%(options)s
        '1:verb:->verb' '*::argument:->argument'
    case $state in
        verb) _describe verb verbs ;;
        argument)
            case $line[1] in
%(cases)s
            esac
            ;;
    esac
}
_magictl "$@"
"""


def zsh(program: commands.Command) -> str:
    return ZSH % {
        **LISTS,
        "verbs": "\n".join(f"        {_quoted(f'{v.name}:{v.text}')}" for v in program.verbs),
        "options": "\n".join(f"        {text} \\" for text in _zsh_options(program)),
        "cases": "\n".join(map(_zsh_case, program.verbs)),
    }


def _zsh_case(verb: commands.Command) -> str:
    words = [*_zsh_options(verb), *map(_zsh_operand, verb.operands)]
    return f"                {verb.name}) _arguments {' '.join(words)} ;;"


def _zsh_options(command: commands.Command) -> list[str]:
    texts = ["'(-h --help)'{-h,--help}'[help]'"]
    for option in command.options:
        value = f":{option.value}:({' '.join(option.choices)})" if option.value else ""
        told = f"[{option.text.replace('[', '(').replace(']', ')')}]"
        texts += [_quoted(f"{flag}{told}{value.replace('()', '')}") for flag in option.flags]
    return texts


def _zsh_operand(operand: commands.Argument) -> str:
    words = f"({' '.join(operand.choices)})" if operand.choices else ""
    kind = KINDS.get(operand.name)
    action = words or (f"_magictl_{kind}" if kind else "")
    optional = "" if operand.required else ":"
    return _quoted(f"{'*' if operand.repeats else ''}:{optional}{operand.name}:{action}")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# --- fish -----------------------------------------------------------------------------------


def fish(program: commands.Command) -> str:
    lines = ["# fish completion of magictl(1)", "complete -c magictl -f"]
    first, behind = "__fish_use_subcommand", "__fish_seen_subcommand_from"
    lines += _fish_options(program, "")
    for verb in program.verbs:
        about = f"-d {_fish_quoted(verb.text)}"
        lines.append(f"complete -c magictl -n {first} -a {verb.name} {about}")
        where = f" -n {_fish_quoted(f'{behind} {verb.name}')}"
        lines += _fish_options(verb, where)
        for operand in verb.operands:
            kind = KINDS.get(operand.name)
            words = " ".join(operand.choices) or (f"({LISTS[kind]})" if kind else "")
            if words:
                lines.append(f"complete -c magictl{where} -a {_fish_quoted(words)}")
    return "\n".join(lines) + "\n"


def _fish_options(command: commands.Command, where: str) -> list[str]:
    lines = [f"complete -c magictl{where} -s h -l help -d help"]
    for option in command.options:
        names = [f"-l {f[2:]}" if f.startswith("--") else f"-s {f[1:]}" for f in option.flags]
        value = " -x" if option.value else ""
        about = _fish_quoted(option.text)
        lines.append(f"complete -c magictl{where} {' '.join(names)}{value} -d {about}")
    return lines


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


PLACES: dict[str, Callable[[commands.Command], str]] = {
    "usr/share/bash-completion/completions/magictl": bash,
    "usr/share/zsh/vendor-completions/_magictl": zsh,
    "usr/share/fish/vendor_completions.d/magictl.fish": fish,
}


def main(root: Path) -> None:
    program = commands.read(cli.parser())
    for name, make in PLACES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(make(program))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
