"""Profiles: which models should run, and how requests are distributed over them. Pure.

A profile is a small YAML file, which people may edit while magid is running; `profile_store` reads
and writes it. Its name is a slug, which cannot contain a path.
"""

import fnmatch
import re
import unicodedata
from enum import StrEnum
from itertools import pairwise
from typing import Annotated, ClassVar

from msgspec import Meta, Struct, field
from msgspec.structs import replace

from magid.catalog.aliases import Alias, Target, lead_to_models, one_line
from magid.discovery.naming import spellings
from magid.discovery.tiers import Tier
from magid.errors import InvalidInput, InvalidProfile, ProfileNotFound
from magid.files import schema, strict_yaml
from magid.files.schema import Fault, Mismatch, Rule, Schema, about
from magid.files.strict_yaml import Document, YamlError

MAX_TEXT = strict_yaml.MAX_BYTES
SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_SELECTOR = re.compile(r"[a-z0-9_*?\[\]!-]{1,200}")
_TIER_PREFIX = "tier:"


# -- the profile ---------------------------------------------------------------------------------


def check_selector(text: str) -> str:
    """Returns an entry of `enabled_models`. Raises ValueError."""
    if text.startswith(_TIER_PREFIX):
        if text.removeprefix(_TIER_PREFIX) not in list(Tier):
            raise ValueError(f"should be one of {', '.join(_TIER_PREFIX + tier for tier in Tier)}")
    elif not _SELECTOR.fullmatch(text):
        raise ValueError("should be a model id, a pattern of ids with *, ? and [...], or tier:NAME")
    return text


def _no_controls(text: str) -> str:
    if not text.replace("\n", "").isprintable():
        raise ValueError("should be text without control characters")
    return text


Line = Annotated[str, Meta(max_length=100), Rule(one_line)]
Text = Annotated[str, Meta(max_length=1000), Rule(_no_controls)]
WholeSeconds = Annotated[int, Meta(ge=0, le=86_400)]


class _Part(Schema, frozen=True):
    has_api_names: ClassVar[bool] = True


class TierRange(_Part, frozen=True):
    """Maximum complexity score of requests for a tier, and the time to expect."""

    api_title: ClassVar[str] = "TierConfig"

    name: Tier
    max_score: Annotated[
        float, Meta(ge=0, le=1000), about("Requests of auto up to this score go to the tier")
    ]
    expected_time_seconds: Annotated[WholeSeconds, about("Shown to people, and nothing else")] = 5
    description: Text = ""


class TwoStageRules(_Part, frozen=True):
    """Lets one tier draft an answer and another refine it."""

    api_title: ClassVar[str] = "TwoStage"

    enabled: bool = False
    stage1_tier: Annotated[Tier, about("Drafts the answer")] = Tier.BALANCED
    stage2_tier: Annotated[Tier, about("Answers with the draft")] = Tier.POWERFUL
    stage1_max_tokens: Annotated[
        int, Meta(ge=1, le=1_000_000), about("Tokens that a draft may have")
    ] = 500


class Strategy(StrEnum):
    """How a server is chosen for a request."""

    ROUND_ROBIN = "round_robin"
    LEAST_OUTSTANDING = "least_outstanding"
    PREFIX_AFFINITY = "prefix_affinity"


class LoadBalancingRules(_Part, frozen=True):
    """How requests for a model are distributed over its servers."""

    api_title: ClassVar[str] = "LoadBalancing"

    enabled: Annotated[
        bool, about("Requests go to all servers of a model, and not to its first one")
    ] = True
    strategy: Annotated[Strategy, about("How a server is chosen for a request")] = (
        Strategy.ROUND_ROBIN
    )
    health_check_interval: Annotated[
        int, Meta(ge=1, le=86_400), about("Seconds between checks of a server")
    ] = 30
    weights: Annotated[
        dict[
            Annotated[str, Rule(check_selector)],
            Annotated[int, Meta(ge=1, le=1000)],
        ],
        Meta(max_length=1000),
        about("Shares of requests, by selector as in enabled_models; 1 where none matches"),
    ] = field(default_factory=dict)


def _rising(tiers: tuple[TierRange, ...]) -> tuple[TierRange, ...]:
    if len({tier.name for tier in tiers}) != len(tiers):
        raise ValueError("should have each tier at most once")
    if any(low.max_score >= high.max_score for low, high in pairwise(tiers)):
        raise ValueError("should have tiers in ascending order of max_score")
    return tiers


DEFAULT_TIERS = (
    TierRange(
        name=Tier.FAST,
        max_score=3.0,
        expected_time_seconds=2,
        description="Fast processing for simple queries",
    ),
    TierRange(
        name=Tier.BALANCED,
        max_score=7.0,
        expected_time_seconds=5,
        description="Balanced speed and depth for most queries",
    ),
    TierRange(
        name=Tier.POWERFUL,
        max_score=10.0,
        expected_time_seconds=15,
        description="Deep reasoning for complex queries",
    ),
)
"""Scores are from 0 to 10."""


class Profile(_Part, frozen=True):
    """A profile. `enabled_models` has ids, patterns of ids, and `tier:NAME`."""

    name: Line
    description: Text = ""
    enabled_models: Annotated[
        tuple[Annotated[str, Rule(check_selector)], ...], Meta(max_length=1000)
    ] = ()
    tier_config: Annotated[tuple[TierRange, ...], Rule(_rising)] = DEFAULT_TIERS
    two_stage: TwoStageRules = TwoStageRules()
    load_balancing: LoadBalancingRules = LoadBalancingRules()
    # Further names for the gateway: alias -> model id, tier or auto, perhaps with parameters.
    aliases: Annotated[dict[Alias, Target], Meta(max_length=1000), Rule(lead_to_models)] = field(
        default_factory=dict
    )


def matches(profile: Profile, model_id: str, tier: Tier) -> bool:
    """Whether the profile enables this model. Accepts both spellings of sizes (8b, 8p0b)."""
    return any(selects(selector, model_id, tier) for selector in profile.enabled_models)


def selects(selector: str, model_id: str, tier: Tier) -> bool:
    """Whether one entry of `enabled_models` matches this model."""
    if selector.startswith(_TIER_PREFIX):
        return selector == _TIER_PREFIX + tier
    return any(fnmatch.fnmatchcase(spelling, selector) for spelling in spellings(model_id))


# -- names ---------------------------------------------------------------------------------------


def slug(name: str) -> str:
    """Returns the file name, without `.yaml`, for a profile's name: "Fast Only" -> "fast-only".

    Raises InvalidInput if the name has no letter or digit for it.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    text = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:63].rstrip("-")
    if not text:
        raise InvalidInput(
            f"cannot derive a file name from {name!r}: it has none of a-z and 0-9; choose another "
            "name",
            field="name",
        )
    return text


def check_slug(text: str) -> str:
    """Returns the text if it can be a profile's name; else raises ProfileNotFound."""
    if not SLUG.fullmatch(text):
        raise ProfileNotFound(
            f"cannot find profile {text[:80]!r}: names consist of a-z, 0-9 and -; "
            "GET /api/models/profiles lists them",
            profileName=text[:80],
        )
    return text


def profile_not_found(name: str) -> ProfileNotFound:
    return ProfileNotFound(
        f"cannot find profile {name!r}; GET /api/models/profiles lists them", profileName=name
    )


class TextFault(Struct, frozen=True):
    """One error in the text of a profile."""

    line: int | None  # from 1; None: of the whole text, such as a missing key
    field: str  # the key as in the text, `tier_config[0].max_score`; "" if it is no YAML
    reason: str  # follows the key


def parse(content: bytes, source: str) -> Profile:
    """Parses a profile from YAML. Raises InvalidProfile with `source`, line and key.

    The error's detail `errors` has what is wrong, each a TextFault; of much the first faults.
    """
    try:
        document = strict_yaml.loads(content, source)
    except YamlError as error:
        fault = TextFault(error.line, "", error.reason)
        raise InvalidProfile(str(error), errors=[fault]) from None
    try:
        return schema.read(document.data, Profile)
    except Mismatch as error:
        faults = [_in_text(fault, document) for fault in error.faults]
        first = faults[0]
        where = f"line {first.line}: " if first.line else ""
        said = f"{first.field} {first.reason}".strip()
        raise InvalidProfile(f"cannot use {source}: {where}{said}", errors=faults) from None


def _in_text(fault: Fault, document: Document) -> TextFault:
    if fault.path not in document.lines:  # a missing key: name it as in a file
        *above, key = fault.path
        fault = replace(fault, path=(*above, _as_in_files(key)))
    return TextFault(document.line(fault.path), fault.key, fault.reason)


def _as_in_files(part: str | int) -> str | int:
    """`max_score` for `maxScore`."""
    if isinstance(part, int):
        return part
    return re.sub("[A-Z]", lambda found: f"_{found[0].lower()}", part)
