"""Files of the original program: its profiles, and its registry with its users' decisions. Pure.

It is MAGI's first backend, later called S.Y.N.A.P.S.E. Engine. `magictl import` takes over what
they say. Whatever has no place in magid is named, with the reason, and the rest is used.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from magid.catalog import profile
from magid.catalog.profile import Profile, Strategy
from magid.discovery.tiers import Tier
from magid.errors import InvalidInput, InvalidProfile
from magid.files import schema, strict_yaml
from magid.files.schema import Mismatch
from magid.files.strict_yaml import YamlError
from magid.llama.runtime_settings import BY_NAME

MAX_BYTES = 64 * 2**20

# -- its registry --------------------------------------------------------------------------------

_SETTINGS = ("n_gpu_layers", "ctx_size", "n_threads", "batch_size")
# What that program found out, as magid does by itself.
_FOUND = frozenset({
    "model_id", "file_path", "filename", "family", "version", "size_params", "quantization",
    "is_thinking_model", "is_instruct", "is_coder", "assigned_tier",
})  # fmt: skip


class OriginalModel(Struct, frozen=True):
    """A model in the original registry, with what its users decided; None: nothing."""

    model_id: str
    path: str = ""  # as that program saw it, perhaps in a container
    tier: Tier | None = None
    thinking: bool | None = None
    enabled: bool = False  # its default, so it does not say that a user disabled the model
    port: int | None = None
    settings: Mapping[str, Any] = {}  # by their names in the API


class OriginalRegistry(Struct, frozen=True):
    """The parts of the document that can be used; `faults` names the others, one a sentence."""

    models: tuple[OriginalModel, ...]
    faults: tuple[str, ...] = ()
    port_range: Any = None
    tier_thresholds: Any = None


def is_registry(content: bytes) -> bool:
    """Whether the file is meant to be a registry: JSON with `models`; else it is a profile."""
    return content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") and b'"models"' in content


def parse_registry(content: bytes, source: str) -> OriginalRegistry:
    """Parses model_registry.json. Raises InvalidInput if none of it can be used."""
    document = _json(content, source)
    models = document.get("models")
    if "registry" in document and "format" in document:
        raise InvalidInput(
            f"cannot import {source}: it is a registry of magid itself; restore it as a file, see "
            "docs/recipes.md"
        )
    if not isinstance(models, dict):
        raise InvalidInput(f"cannot import {source}: it has no mapping `models`")
    found, faults = [], []
    for model_id, given in models.items():
        model, problems = _model(model_id, given)
        found += [model] if model else []
        faults += [f"{model_id}: {problem}" for problem in problems]
    return OriginalRegistry(
        tuple(found), tuple(faults), document.get("port_range"), document.get("tier_thresholds")
    )


def _json(content: bytes, source: str) -> dict[str, Any]:
    if len(content) > MAX_BYTES:
        raise InvalidInput(f"cannot import {source}: it is larger than {MAX_BYTES} bytes")
    try:
        document = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"cannot import {source}: it is not JSON ({error})") from None
    if not isinstance(document, dict):
        raise InvalidInput(f"cannot import {source}: it is not a registry")
    return {_snake(key): value for key, value in document.items()}


def _snake(key: str) -> str:
    """`file_path` for `filePath`: its API has the same keys in camelCase."""
    return "".join(f"_{sign.lower()}" if sign.isupper() else sign for sign in key)


def _model(model_id: str, given: Any) -> tuple[OriginalModel | None, list[str]]:
    """Returns the model, and what of it cannot be used; None if it is no mapping."""
    if not isinstance(given, dict):
        return None, ["it is not a mapping"]
    values = {_snake(key): value for key, value in given.items()}
    faults: list[str] = []
    known = {name: _checked(name, values, check, faults) for name, check in _CHECKS.items()}
    rest = values.keys() - _CHECKS.keys() - _FOUND
    faults += [f"{name} is not known to magid" for name in sorted(rest) if values[name] is not None]
    settings = {BY_NAME[n].key: known[n] for n in _SETTINGS if known[n] is not None}
    path = values.get("file_path")
    return OriginalModel(
        model_id,
        path if isinstance(path, str) else "",
        known["tier_override"],
        known["thinking_override"],
        known["enabled"] is True,
        known["port"],
        settings,
    ), faults


def _checked(
    name: str, values: Mapping[str, Any], check: Callable[[Any], Any], faults: list[str]
) -> Any:
    """Returns the value, or None, with a fault, for one that magid would not take."""
    value = values.get(name)
    if value is None:
        return None
    try:
        return check(value)
    except ValueError as error:
        faults.append(f"{name} {value!r:.60} {error}")
        return None


def _tier(value: Any) -> Tier:
    if value not in list(Tier):
        raise ValueError(f"should be one of {', '.join(Tier)}")
    return Tier(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("should be true or false")
    return value


def _port(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= 65_535:
        raise ValueError("should be a port from 1 to 65535")
    return value


_CHECKS: Mapping[str, Callable[[Any], Any]] = {
    "tier_override": _tier,
    "thinking_override": _flag,
    "enabled": _flag,
    "port": _port,
    **{name: BY_NAME[name].values.check for name in _SETTINGS},
}

# -- its profiles --------------------------------------------------------------------------------

_STRATEGIES = {"least_loaded": Strategy.LEAST_OUTSTANDING}
_HIGHEST = 10.0  # a complexity score
_NO_LIMIT = 1000.0


class OriginalProfile(Struct, frozen=True):
    """A profile as magid has it; `faults` names what it had to leave out, one a sentence."""

    profile: Profile
    faults: tuple[str, ...] = ()


def parse_profile(content: bytes, source: str, ids: Mapping[str, str]) -> OriginalProfile:
    """Parses a profile, also one of magid. `ids`: id of a model there -> its id here.

    Raises InvalidProfile with `source`, line and key.
    """
    try:
        document = strict_yaml.loads(content, source)
    except YamlError as error:
        raise InvalidProfile(str(error)) from None
    faults: list[str] = []
    data = _as_profile(document.data, ids, faults)
    try:
        return OriginalProfile(schema.read(data, Profile), tuple(faults))
    except Mismatch as error:
        raise InvalidProfile(f"cannot import {source}: {error.faults[0]}") from None


def _as_profile(data: dict[str, Any], ids: Mapping[str, str], faults: list[str]) -> dict[str, Any]:
    """The document with magid's keys and values."""
    data = {_snake(key): value for key, value in data.items()}
    about = data.pop("profile", None)
    if isinstance(about, dict):
        data = {**about, **data}
    data = _known(data, Profile, "", faults)
    if isinstance(models := data.get("enabled_models"), list):
        data["enabled_models"] = list(_selectors(models, ids, faults))
    if isinstance(tiers := data.get("tier_config"), list):
        data["tier_config"] = _tiers(tiers, faults)
    for key, kind in (
        ("two_stage", profile.TwoStageRules),
        ("load_balancing", profile.LoadBalancingRules),
    ):
        if isinstance(part := data.get(key), dict):
            data[key] = _known(part, kind, f"{key}.", faults)
    _choose_strategy(data.get("load_balancing"), faults)
    return data


def _known(
    part: dict[str, Any], kind: type[schema.Schema], where: str, faults: list[str]
) -> dict[str, Any]:
    """Without nulls, which mean the default there, and without keys that magid does not have."""
    part = {_snake(key): value for key, value in part.items() if value is not None}
    names = {each.name for each in msgspec.structs.fields(kind)}
    faults += [f"{where}{key} is not known to magid" for key in part if key not in names]
    return {key: value for key, value in part.items() if key in names}


def _selectors(models: list[Any], ids: Mapping[str, str], faults: list[str]) -> Iterator[Any]:
    for model in models:
        selector = ids.get(model, model) if isinstance(model, str) else model
        try:
            if isinstance(selector, str):
                profile.check_selector(selector)
        except ValueError:
            faults.append(f"enabled_models: {model!r:.100} cannot be an id of magid")
        else:
            yield selector


def _tiers(tiers: list[Any], faults: list[str]) -> list[Any]:
    """Without the tiers that magid does not have; `.inf` becomes a limit that no score exceeds."""
    kept: list[Any] = []
    lower = 0.0
    for given in tiers:
        if not isinstance(given, dict):
            kept.append(given)
            continue
        tier = _known(given, profile.TierRange, "tier_config: ", faults)
        if isinstance(tier.get("name"), str) and tier["name"] not in list(Tier):
            faults.append(f"tier_config: {tier['name']!r:.60} is not a tier of magid")
            continue
        if str(tier.get("max_score")).lower().lstrip("+") == ".inf":
            tier["max_score"] = _HIGHEST if lower < _HIGHEST else _NO_LIMIT
        if isinstance(tier.get("max_score"), (int, float)):
            lower = tier["max_score"]
        kept.append(tier)
    return kept


def _choose_strategy(rules: Any, faults: list[str]) -> None:
    """Puts magid's strategy into the rules in the place of one that it does not have."""
    if not isinstance(rules, dict) or not isinstance(name := rules.get("strategy"), str):
        return
    if name not in list(Strategy):
        if name not in _STRATEGIES:
            faults.append(
                f"load_balancing.strategy {name!r:.60} is not known to magid; round_robin instead"
            )
        rules["strategy"] = _STRATEGIES.get(name, Strategy.ROUND_ROBIN)
