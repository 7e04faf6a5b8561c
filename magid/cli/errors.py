"""Error messages of magictl: what failed, why, and the command to try."""

import sys
from collections.abc import Callable, Iterable, Sequence

from magid.cli import hints, model_names
from magid.cli.client import MODELS, Client, Refused
from magid.cli.output import RED, flush, note, paint, plain
from magid.wording.counts import counted

TRY = {  # error code of the API -> the command to try
    "ModelNotFound": "magictl ls",
    "ProfileNotFound": "magictl profile ls",
    "ModelDisabled": "magictl enable {modelId}",
    "ModelGone": "magictl rescan",
    "NotReady": "magictl status",
    "ServerFailed": "magictl logs {modelId}",
    "ModelNotRunning": "magictl start {modelId}",
    "TimedOut": "magictl ps",
    "Busy": "magictl ps",
    "PortTaken": "magictl ls",
    "ProfileExists": "magictl profile edit {profileName}",
    "ProfileActive": "magictl profile activate OTHER",
    "InvalidProfile": "magictl profile edit {profileName}",
    "StaleRevision": "magictl profile show {profileName}",
    "LlamaServerMissing": "magictl status",
    "QueueFull": "magictl top",
    "model_not_found": "magictl ls",  # the gateway uses OpenAI's codes
    "Unauthenticated": "magictl --token-file FILE, or MAGI_TOKEN",
    "NotAllowed": "magictl token create --scope {scope} --name NAME",
    "TokenNotFound": "magictl token ls",
    "TokenExists": "magictl token revoke {name}",
}


def report(client: Client | None, error: Refused) -> None:
    """Prints the error to stderr. Asks the daemon for similar names; ignores a failure of that."""
    what, why, advice = _parts(error)
    none, near = _similar(client, error)
    why = why or none
    flush()
    print(paint(plain(f"magictl: {what}"), RED, sys.stderr), file=sys.stderr)
    for line in (why, f"did you mean {model_names.either(near)}?" if near else "", *advice):
        if line:
            note(line)


def each(client: Client, models: Sequence[str], do: Callable[[str], None]) -> int:
    """Calls `do` for each model, even after a refusal. Returns 0, or the first refusal's status."""
    result = 0
    for model in models:
        try:
            do(model)
        except Refused as error:
            report(client, error)
            result = result or error.status
    return result


def like(word: str, known: Iterable[str]) -> str | None:
    """Returns the name in `known` that is closest to `word`, if any is close."""
    import difflib  # late: it takes some milliseconds, and only mistyped names need it

    names = list(known)
    begun = [name for name in names if word and name.startswith(word)]
    near = begun or difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    near = near or [name for name in names if len(word) > 2 and word in name]
    if not near:  # users often type the beginning of a name
        begins = {name[: len(word) + 2]: name for name in names}
        near = [begins[b] for b in difflib.get_close_matches(word, begins, n=1, cutoff=0.7)]
    return near[0] if near else None


def _parts(error: Refused) -> tuple[str, str, list[str]]:
    """Returns what, why and what to try. magid's errors read "cannot ...: why; what to do"."""
    first, *more = hints.translated(str(error)).split("\n")
    what, _, why = first.partition(": ") if first.startswith("cannot ") else (first, "", "")
    hint = TRY.get(error.code, "")
    if error.code in model_names.UNKNOWN and why.startswith("it is disabled"):
        hint = f"magictl enable {_asked(error)}"
    try:
        command = hint.format(**error.details)
    except KeyError:
        command = ""
    if command:
        why = why.rpartition("; ")[0] or why
        return what.partition("; ")[0], why, [f"try: {command}", *more]
    is_magids = bool(error.code) and not more
    if not why:
        what, _, rest = what.partition("; ")
        why, advice = ("", rest) if is_magids else (rest, "")
    elif is_magids and "; " in why:
        why, _, advice = why.rpartition("; ")
    else:
        advice = ""
    return what, why, [f"try: {advice.removeprefix('try ')}"] if advice else more


def _asked(error: Refused) -> str:
    if error.code == "model_not_found":
        return str(error).partition("'")[2].partition("'")[0]
    return str(error.details.get("modelId") or error.details.get("profileName") or "")


def _none_of(number: int) -> str:
    """Returns that none of so many models matches; empty if there are none."""
    if number == 1:
        return "the only model there is does not match it"
    return f"none of the {counted(number, 'model')} matches it" if number else ""


def _similar(client: Client | None, error: Refused) -> tuple[str, list[str]]:
    """Returns that no name of the kind matches, and the similar ones; empty for other errors."""
    word = _asked(error)
    if client is not None and error.code in model_names.UNKNOWN:
        models = model_names.present(client)
        none = _none_of(len(models))
        near = model_names.nearest(word, models)
        return none, [] if word in (*near, *model_names.POOLS) else near
    try:
        if client is not None and error.code == "ProfileNotFound":
            names = list(client.call("GET", f"{MODELS}/profiles"))
            name = like(word, names)
            none = "no profile has this name" if names else ""
            return none, [name] if name else []
    except Refused:
        pass
    return "", []
