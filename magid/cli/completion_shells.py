"""Completions of magictl for bash, zsh and fish, generated from its parser. Pure.

Names of models and profiles come from the daemon when the key is pressed, within a second or not
at all.
"""

from collections.abc import Callable, Iterator

from magid.cli.completion_grammar import Argument, Command
from magid.cli.setting_keys import NAMES

# What a user can name, and the command that lists it. Prints nothing if the daemon is not running.
_ASK = "magictl --request-timeout 1"
LISTS = {
    "models": f"{_ASK} ls -q 2>/dev/null",
    "profiles": f"{_ASK} profile ls -q 2>/dev/null",
}
KINDS = {"model": "models", "models": "models", "profile": "profiles"}  # by an operand's name
FILES = {"file"}
BEGINNINGS = {"settings": " ".join(f"{key}=" for key in NAMES)}  # words to which more is added


def _flags(command: Command) -> str:
    return " ".join(flag for option in command.options for flag in option.flags)


def _all(program: Command) -> Iterator[tuple[tuple[str, ...], Command]]:
    """Yields every verb and action with the words that select it."""
    for verb in program.verbs:
        for name in verb.names:
            yield (name,), verb
            yield from (((name, *words), action) for words, action in _all(verb))


def _groups(program: Command) -> list[str]:
    return [name for verb in program.verbs if verb.verbs for name in verb.names]


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
            *) case $verb in
                   '') verb=$word ;;
                   %(groups)s) verb+=" $word" ;;
                   *) ((++operand)) ;;
               esac ;;
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


def bash(program: Command) -> str:
    everywhere = (program, *(command for _, command in _all(program)))
    valued = {f for command in everywhere for o in command.options if o.value for f in o.flags}
    return BASH % {
        "valued": "|".join(sorted(valued)),
        "groups": "|".join(_groups(program)),
        "verbs": " ".join(verb.name for verb in program.verbs),
        "flags": _flags(program),
        "cases": "\n".join(_bash_case(words, command) for words, command in _all(program)),
    }


def _bash_case(words: tuple[str, ...], command: Command) -> str:
    lines = [f"        '{' '.join(words)}') flags+=' {_flags(command)}'"]
    if command.verbs:
        lines.append(f"            words='{' '.join(verb.name for verb in command.verbs)}'")
    for number, operand in enumerate(command.operands):
        test = f"((operand {'>=' if operand.repeats else '=='} {number}))"
        if operand.name in FILES:
            files = 'mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return'
            lines.append(f"            [[ $cur == -* ]] || ! {test} || {{ {files}; }}")
        elif operand.name in BEGINNINGS:
            more = f"words='{BEGINNINGS[operand.name]}'; compopt -o nospace 2>/dev/null"
            lines.append(f"            ! {test} || {{ {more}; }}")
        elif found := _bash_words(operand):
            lines.append(f"            {test} && words+={found}")
    return "\n".join([*lines, "            ;;"])


def _bash_words(operand: Argument) -> str:
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
_magictl_settings() {
    compadd -S '' -- %(settings)s
}
%(functions)s
_magictl "$@"
"""
ZSH_FUNCTION = """\
%(name)s() {
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
}"""


def zsh(program: Command) -> str:
    groups = [verb for verb in program.verbs if verb.verbs]
    functions = [_zsh_function(f"_magictl_{group.name}", group) for group in groups]
    return ZSH % {
        **LISTS,
        **BEGINNINGS,
        "functions": "\n".join([*functions, _zsh_function("_magictl", program)]),
    }


def _zsh_function(name: str, command: Command) -> str:
    return ZSH_FUNCTION % {
        "name": name,
        "verbs": "\n".join(f"        {_quoted(f'{v.name}:{v.text}')}" for v in command.verbs),
        "options": "\n".join(f"        {text} \\" for text in _zsh_options(command)),
        "cases": "\n".join(map(_zsh_case, command.verbs)),
    }


def _zsh_case(verb: Command) -> str:
    words = [*_zsh_options(verb), *map(_zsh_operand, verb.operands)]
    action = f"_magictl_{verb.name}" if verb.verbs else f"_arguments {' '.join(words)}"
    return f"                {'|'.join(verb.names)}) {action} ;;"


def _zsh_options(command: Command) -> list[str]:
    texts = ["'(-h --help)'{-h,--help}'[help]'"]
    for option in command.options:
        value = f":{option.value}:({' '.join(option.choices)})" if option.value else ""
        label = f"[{option.text.replace('[', '(').replace(']', ')').replace(':', '')}]"
        texts += [_quoted(f"{flag}{label}{value.replace('()', '')}") for flag in option.flags]
    return texts


def _zsh_operand(operand: Argument) -> str:
    words = f"({' '.join(operand.choices)})" if operand.choices else ""
    kind = KINDS.get(operand.name)
    kind = operand.name if operand.name in BEGINNINGS else kind
    action = words or (f"_magictl_{kind}" if kind else "")
    action = "_files" if operand.name in FILES else action
    optional = "" if operand.required else ":"
    return _quoted(f"{'*' if operand.repeats else ''}:{optional}{operand.name}:{action}")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# --- fish -----------------------------------------------------------------------------------

FISH = """\
# fish completion of magictl(1)
function __magictl_words
    string match -v -- '-*' (commandline -opc)[2..]
end
function __magictl_at
    test "$(__magictl_words)" = "$argv"
end
function __magictl_in
    set -l words (__magictl_words)
    test "$words[1..$(count $argv)]" = "$argv"
end
complete -c magictl -f
"""


def fish(program: Command) -> str:
    lines = [FISH, *_fish_options(program, "")]
    lines += _fish_verbs(program, "")
    for words, command in _all(program):
        typed = " ".join(words)
        lines += _fish_verbs(command, typed)
        where = f" -n {_fish_quoted(f'__magictl_in {typed}')}"
        lines += _fish_options(command, where)
        for operand in command.operands:
            kind = KINDS.get(operand.name)
            offered = " ".join(operand.choices) or (f"({LISTS[kind]})" if kind else "")
            offered = BEGINNINGS.get(operand.name, offered)
            if operand.name in FILES:
                lines.append(f"complete -c magictl{where} -F")
            elif offered:
                lines.append(f"complete -c magictl{where} -a {_fish_quoted(offered)}")
    return "\n".join(lines) + "\n"


def _fish_verbs(command: Command, typed: str) -> list[str]:
    where = _fish_quoted(f"__magictl_at {typed}".rstrip())
    return [
        f"complete -c magictl -n {where} -a {verb.name} -d {_fish_quoted(verb.text)}"
        for verb in command.verbs
    ]


def _fish_options(command: Command, where: str) -> list[str]:
    lines = [f"complete -c magictl{where} -s h -l help -d help"]
    for option in command.options:
        names = [f"-l {f[2:]}" if f.startswith("--") else f"-s {f[1:]}" for f in option.flags]
        value = " -x" if option.value else ""
        about = _fish_quoted(option.text)
        lines.append(f"complete -c magictl{where} {' '.join(names)}{value} -d {about}")
    return lines


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SHELLS: dict[str, Callable[[Command], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
