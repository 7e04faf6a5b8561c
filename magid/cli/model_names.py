"""How a person names a model: by its id, its file, or any unique beginning of either.

magid itself takes ids only, so that a program never means another model than it did yesterday.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from magid.cli.client import MODELS, Client, Refused

T = TypeVar("T")
UNKNOWN = ("ModelNotFound", "model_not_found")  # the gateway uses OpenAI's codes
POOLS = ("auto", "fast", "balanced", "powerful")  # what the gateway chooses a model from
_SHOWN = 5  # models that a message lists
_WHOLE_SIZE = re.compile(r"(?<=_)([0-9]+)p0b(?=_|$)")
_SHARD = re.compile(r"-[0-9]{5}-of-[0-9]{5}$")


class Named(NamedTuple):  # dataclasses would double the time of a start
    """A model as the registry lists it. `path` is empty where only the id is known."""

    model_id: str
    path: str = ""

    @property
    def names(self) -> frozenset[str]:
        """Returns all its names, folded: the id, and the file with and without its ending."""
        file = self.path.rpartition("/")[2]
        stem = file.removesuffix(".gguf")
        return frozenset(
            map(folded, filter(None, (self.model_id, file, stem, _SHARD.sub("", stem))))
        )


def folded(word: str) -> str:
    """Normalises a name for comparison: lower case, one kind of separator, 8b for 8p0b."""
    return _WHOLE_SIZE.sub(r"\1b", re.sub(r"[-_. ]+", "_", word.casefold()))


def meant(word: str, models: Sequence[Named]) -> list[str]:
    """Returns the ids of the models that `word` names, or else begins to name. Pure."""
    if not word:
        return []
    if "/" in word:
        end = "/" + word.lstrip("/")
        found = [m.model_id for m in models if m.path == word or m.path.endswith(end)]
        return found or [m.model_id for m in models if _is_at_hub(word, m.path)]
    key = folded(word)
    exact = [m.model_id for m in models if key in m.names]
    return exact or [m.model_id for m in models if any(n.startswith(key) for n in m.names)]


def _is_at_hub(word: str, path: str) -> bool:
    """Whether hf.co/ORG/REPO or ORG/REPO:TAG, as it was pulled, is the file at this path.

    ORG/REPO alone could be any two folders.
    """
    plain = word.removeprefix("hf.co/")
    repository, _, tag = plain.partition(":")
    _, is_there, file = path.partition(f"/{repository}/")
    if not is_there or not (tag or plain != word):
        return False
    return re.search(re.escape(tag) + "[.-]", file, re.IGNORECASE) is not None


def nearest(word: str, models: Iterable[Named]) -> list[str]:
    """Returns the ids of up to three models with a similar name, the most similar first. Pure."""
    import difflib  # late: it takes some milliseconds, and only mistyped names need it

    key = folded(word.rpartition("/")[2])
    owners: dict[str, str] = {}
    for model in models:
        for name in model.names:
            owners.setdefault(name, model.model_id)
            for length in (len(key), len(key) + 2):  # people type beginnings
                owners.setdefault(name[:length], model.model_id)
    near = difflib.get_close_matches(key, owners, n=6, cutoff=0.7)
    near += [name for name in owners if len(key) > 2 and key in name]
    return list(dict.fromkeys(owners[name] for name in near))[:3]


def warning(pattern: str, models: Sequence[Named]) -> str:
    """Returns the warning of a pattern that matches no model. Pure."""
    near = nearest(re.sub(r"[*?!\[\]]+", "", pattern), models)
    return f"warning: {pattern!r} matches no model{did_you_mean(near)}"


def did_you_mean(near: Sequence[str]) -> str:
    return f"; did you mean {either(near)}?" if near else ""


def either(names: Sequence[str]) -> str:
    """Returns "'a', 'b' or 'c'"."""
    quoted = [repr(name) for name in names]
    return " or ".join([", ".join(quoted[:-1]), quoted[-1]]) if len(quoted) > 1 else quoted[0]


def unmatched(patterns: Iterable[str], names: Iterable[str]) -> list[str]:
    """Returns the patterns that match none of the names; `tier:NAME` always may match. Pure."""
    from fnmatch import fnmatchcase  # late: only `token create` needs it

    known = {spelled for name in names for spelled in (name, _WHOLE_SIZE.sub(r"\1b", name))}
    return [
        pattern
        for pattern in patterns
        if not pattern.startswith("tier:") and not any(fnmatchcase(n, pattern) for n in known)
    ]


def named(client: Client, do: Callable[[str], T]) -> Callable[[str], T]:
    """Returns `do` for a model as a person names it.

    `do` is first called with the word as it is. It must raise Refused for an unknown model before
    it has changed anything; then it is called with the model's id.
    """

    def call(word: str) -> T:
        try:
            return do(word)
        except Refused as error:
            if error.code not in UNKNOWN:
                raise
            model_id = _resolved(client, word)
            if model_id in (None, word):
                raise
        return do(model_id)

    return call


def _resolved(client: Client, word: str) -> str | None:
    """Returns the id, or None if nothing has such a name.

    Raises Refused if several models have it, or a file that cannot be used.
    """
    if word in POOLS:
        return None
    registry = _registry(client)
    for models in (present(client, registry), _removed(registry)):
        found = meant(word, models)
        if len(found) > 1:
            raise Refused(_several(word, found), 4)
        if found:
            return found[0]
    for broken in registry.get("modelsBroken", ()):
        if meant(word, [Named(broken["path"], broken["path"])]):
            raise Refused(
                f"cannot use {broken['path']}: {broken['reason']}\ntry: magictl rescan", 4
            )
    return None


def _several(word: str, found: list[str]) -> str:
    rest = len(found) - _SHOWN
    more = f" and {rest} more" if rest > 0 else ""
    return (
        f"cannot tell which model {word!r} means: {len(found)} begin with it, "
        f"{', '.join(found[:_SHOWN])}{more}\ntry: one of them, or more letters"
    )


def present(client: Client, registry: Mapping[str, Any] | None = None) -> list[Named]:
    """Returns the models whose files exist; with a token for the gateway alone, its list.

    Returns an empty list if neither can be had.
    """
    registry = _registry(client) if registry is None else registry
    if "models" in registry:
        return [Named(m["modelId"], m["filePath"]) for m in registry["models"].values()]
    try:
        return [Named(m["id"]) for m in client.call("GET", "/v1/models")["data"]]
    except (Refused, KeyError, TypeError):
        return []


def _removed(registry: Mapping[str, Any]) -> list[Named]:
    return [Named(m["modelId"], m["filePath"]) for m in registry.get("modelsRemoved", ())]


def _registry(client: Client) -> Mapping[str, Any]:
    try:
        answer = client.call("GET", f"{MODELS}/registry")
    except Refused:
        return {}
    return answer if isinstance(answer, dict) else {}
