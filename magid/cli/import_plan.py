"""Plans `magictl import`: compares decisions of the original program with magid's. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from magid.catalog.original import OriginalModel, OriginalRegistry
from magid.cli.client import MODELS, quoted
from magid.cli.model_names import folded
from magid.cli.verbs.profiles import ANSWERED, PROFILES

ON_OFF = {True: "on", False: "off"}
_KEPT = "stays as it was decided here; --replace takes over {}"


class ImportStep(NamedTuple):
    """One request to magid. `before` is empty where magid has decided nothing."""

    subject: str  # a model's id, or a profile
    what: str
    method: str
    path: str
    body: Mapping[str, Any]
    before: str = ""


class ImportPlan(NamedTuple):
    changes: list[ImportStep]
    left: list[str]  # what cannot be taken over, and why
    same: list[str]  # decisions that magid has already
    unusable: list[str]  # why a whole file cannot be used
    warnings: list[str]


def empty() -> ImportPlan:
    return ImportPlan([], [], [], [], [])


def extend(plan: ImportPlan, part: ImportPlan) -> None:
    """Adds the parts of another plan."""
    plan.changes.extend(part.changes)
    for whole, more in zip(plan[1:], part[1:], strict=True):
        whole.extend(more)


# -- which model is meant --------------------------------------------------------------------


def matched(models: Sequence[OriginalModel], rows: Mapping[str, Any]) -> dict[str, str]:
    """Returns the id there -> the id here, for each model that is found.

    Goes by the file: by as many parts of its path as agree, its name at least; the folder may have
    another name here, as in a container. Without such a file goes by the id.
    """
    ranked = []
    for model in models:
        by_path = {i: _common(model.path, row["filePath"]) for i, row in rows.items()}
        best = max(by_path.values(), default=0)
        ids = [i for i, parts in by_path.items() if parts == best] if best else []
        ids = ids or [i for i in rows if folded(i) == folded(model.model_id)]
        if len(ids) == 1:
            ranked.append((-best, model.model_id, ids[0]))
    found: dict[str, str] = {}
    for _, there, here in sorted(ranked):  # two revisions of a file there may be one here
        if here not in found.values():
            found[there] = here
    return found


def _common(path: str, other: str) -> int:
    """Counts the parts that agree from the end on."""
    count = 0
    for one, two in zip(reversed(path.split("/")), reversed(other.split("/")), strict=False):
        if one != two or not one:
            break
        count += 1
    return count


# -- a registry ------------------------------------------------------------------------------


def of_registry(
    original: OriginalRegistry,
    ids: Mapping[str, str],
    registry: Mapping[str, Any],
    details: Mapping[str, Any],
    *,
    replace: bool,
) -> ImportPlan:
    """`ids` as `matched` returns them; `details`: the answer for each of these models."""
    plan = empty()
    plan.left.extend(original.faults)
    plan.left.extend(_of_the_whole(original, registry))
    for model in original.models:
        if model.model_id in ids:
            _add_model(plan, model, details[ids[model.model_id]], registry, replace=replace)
        else:
            plan.left.append(
                f"{model.model_id}: {_decided(model)}; there is no {model.path or 'file of it'} "
                "here: add it to a model folder, then magictl rescan, and import again"
            )
    return plan


def _of_the_whole(original: OriginalRegistry, registry: Mapping[str, Any]) -> Iterator[str]:
    for key, here, there in (
        ("port_range", list(registry["portRange"]), original.port_range),
        ("tier_thresholds", registry["tierThresholds"], original.tier_thresholds),
    ):
        if there is not None and there != here:
            yield f"{key} {there!r:.80} belongs in magid.yaml, which has {here}"


def _decided(model: OriginalModel) -> str:
    words = [
        *([f"tier {model.tier}"] if model.tier else []),
        *([f"thinking {ON_OFF[model.thinking]}"] if model.thinking is not None else []),
        *(f"{key} {_words(value)}" for key, value in model.settings.items()),
        *([f"port {model.port}"] if model.port else []),
        *(["enabled"] if model.enabled else []),
    ]
    return ", ".join(words) or "nothing"


def _add_model(
    plan: ImportPlan, model: OriginalModel, here: Any, registry: Mapping[str, Any], *, replace: bool
) -> None:
    """Thinking comes before the tier, which it may change; the port before what needs one."""
    low, high = registry["portRange"]
    name, port = here["modelId"], model.port
    for what, wanted, present, path, body in _wishes(model, here):
        if wanted == present:
            plan.same.append(f"{name}: {what} {wanted}")
        elif what == "port" and not low <= (port or low) <= high:
            plan.left.append(
                f"{name}: port {port} is outside port_range [{low}, {high}] of magid.yaml"
            )
        elif present and not replace:
            plan.left.append(f"{name}: {what} {present} {_KEPT.format(wanted)}")
        else:
            url = f"{MODELS}/{quoted(name)}/{path}"
            plan.changes.append(ImportStep(name, f"{what} {wanted}", "PUT", url, body, present))


def _wishes(model: OriginalModel, here: Any) -> Iterator[tuple[str, str, str, str, dict[str, Any]]]:
    """Yields what, the wanted and the present decision in words, and the request for it."""
    sources = here["sources"]
    if model.thinking is not None:
        present = ON_OFF.get(here["thinkingOverride"], "")
        yield "thinking", ON_OFF[model.thinking], present, "thinking", {"thinking": model.thinking}
    if model.tier:
        yield "tier", model.tier, here["tierOverride"] or "", "tier", {"tier": model.tier}
    for key, value in model.settings.items():
        present = _words(here[key]) if sources[key] == "override" else ""
        yield key, _words(value), present, "runtime-settings", {key: value}
    if model.port:
        present = str(here["port"]) if sources["port"] == "override" else ""
        body = {"port": model.port, "exchange": True}
        yield "port", str(model.port), present, "port", body
    if model.enabled:
        present = {True: "yes", False: "no"}.get(here["enabledOverride"], "")
        yield "enabled", "yes", present, "enabled", {"enabled": True}


def _words(value: Any) -> str:
    """A setting's value; arguments as a person types them."""
    return " ".join(value) if isinstance(value, list) else str(value)


# -- a profile -------------------------------------------------------------------------------


def of_profile(
    wanted: dict[str, Any], slug: str, present: Mapping[str, Any] | None, *, replace: bool
) -> ImportPlan:
    """`wanted` as the API takes it; `present`: the profile of that name here, if there is one."""
    plan = empty()
    subject = f"profile {slug}"
    here = {key: value for key, value in (present or {}).items() if key not in ANSWERED}
    if here == wanted:
        plan.same.append(subject)
    elif present is None:
        plan.changes.append(ImportStep(subject, wanted["name"], "POST", PROFILES, wanted))
    elif replace:
        path, before = f"{PROFILES}/{quoted(slug)}", "the one here"
        plan.changes.append(ImportStep(subject, wanted["name"], "PUT", path, wanted, before))
    else:
        plan.left.append(f"{subject}: a profile of that name is here; --replace replaces it")
    return plan
