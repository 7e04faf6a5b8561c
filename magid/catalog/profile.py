"""Profiles: which models should run, and how requests are distributed over them. Pure.

A profile is a small YAML file, which people may edit while magid is running; `profile_store` reads
and writes it. Its name is a slug, which cannot contain a path.
"""

import fnmatch
import re
import unicodedata
from dataclasses import replace
from enum import StrEnum
from itertools import pairwise
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
)
from pydantic.alias_generators import to_camel, to_snake
from pydantic_core import PydanticCustomError

from magid.discovery.naming import spellings
from magid.discovery.tiers import Tier
from magid.errors import InvalidInput, InvalidProfile, ProfileNotFound
from magid.files import strict_yaml
from magid.files.strict_yaml import YamlError

SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_SELECTOR = re.compile(r"[a-z0-9_*?\[\]!-]{1,200}")
_TIER_PREFIX = "tier:"


# -- the profile ---------------------------------------------------------------------------------


def _selector(text: str) -> str:
    if text.startswith(_TIER_PREFIX):
        if text.removeprefix(_TIER_PREFIX) not in list(Tier):
            raise _refused(f"should be one of {', '.join(_TIER_PREFIX + tier for tier in Tier)}")
    elif not _SELECTOR.fullmatch(text):
        raise _refused("should be a model id, a pattern of ids with *, ? and [...], or tier:NAME")
    return text


def _one_line(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise _refused("should be text on one line")
    return text


def _no_controls(text: str) -> str:
    if not text.replace("\n", "").isprintable():
        raise _refused("should be text without control characters")
    return text


def _refused(reason: str) -> PydanticCustomError:
    return PydanticCustomError("profile", "{reason}", {"reason": reason})


Line = Annotated[StrictStr, Field(max_length=100), AfterValidator(_one_line)]
Text = Annotated[StrictStr, Field(max_length=1000), AfterValidator(_no_controls)]
Alias = Annotated[StrictStr, Field(max_length=200), AfterValidator(_one_line)]
WholeSeconds = Annotated[StrictInt, Field(ge=0, le=86_400)]


class _Part(BaseModel):
    # snake_case in files, camelCase in the API; both accept either.
    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True
    )


class TierRange(_Part):
    """Maximum complexity score of requests for a tier, and the time to expect."""

    model_config = ConfigDict(title="TierConfig")  # in the OpenAPI document

    name: Tier
    max_score: Annotated[float, Field(strict=True, ge=0, le=1000, allow_inf_nan=False)]
    expected_time_seconds: WholeSeconds = 5
    description: Text = ""


class TwoStageRules(_Part):
    """Lets one tier draft an answer and another refine it."""

    model_config = ConfigDict(title="TwoStage")  # in the OpenAPI document

    enabled: StrictBool = False
    stage1_tier: Tier = Tier.BALANCED
    stage2_tier: Tier = Tier.POWERFUL
    stage1_max_tokens: Annotated[StrictInt, Field(ge=1, le=1_000_000)] = 500


class Strategy(StrEnum):
    """How a server is chosen for a request."""

    ROUND_ROBIN = "round_robin"
    LEAST_OUTSTANDING = "least_outstanding"
    PREFIX_AFFINITY = "prefix_affinity"


class LoadBalancingRules(_Part):
    """How requests for a model are distributed over its servers."""

    model_config = ConfigDict(title="LoadBalancing")  # in the OpenAPI document

    enabled: StrictBool = True
    strategy: Strategy = Strategy.ROUND_ROBIN
    health_check_interval: Annotated[WholeSeconds, Field(ge=1)] = 30  # seconds
    # Shares of requests, by selector as in enabled_models; 1 for models that match none.
    weights: Annotated[
        dict[
            Annotated[StrictStr, AfterValidator(_selector)],
            Annotated[StrictInt, Field(ge=1, le=1000)],
        ],
        Field(max_length=1000),
    ] = {}


def _rising(tiers: tuple[TierRange, ...]) -> tuple[TierRange, ...]:
    if len({tier.name for tier in tiers}) != len(tiers):
        raise _refused("should have each tier at most once")
    if any(low.max_score >= high.max_score for low, high in pairwise(tiers)):
        raise _refused("should have tiers in ascending order of max_score")
    return tiers


DEFAULT_TIERS = (
    TierRange(
        name=Tier.FAST,
        max_score=3,
        expected_time_seconds=2,
        description="Fast processing for simple queries",
    ),
    TierRange(
        name=Tier.BALANCED,
        max_score=7,
        expected_time_seconds=5,
        description="Balanced speed and depth for most queries",
    ),
    TierRange(
        name=Tier.POWERFUL,
        max_score=10,
        expected_time_seconds=15,
        description="Deep reasoning for complex queries",
    ),
)
"""Scores are from 0 to 10."""


class Profile(_Part):
    """A profile. `enabled_models` has ids, patterns of ids, and `tier:NAME`."""

    name: Line
    description: Text = ""
    enabled_models: Annotated[
        tuple[Annotated[StrictStr, AfterValidator(_selector)], ...], Field(max_length=1000)
    ] = ()
    tier_config: Annotated[tuple[TierRange, ...], AfterValidator(_rising)] = DEFAULT_TIERS
    two_stage: TwoStageRules = TwoStageRules()
    load_balancing: LoadBalancingRules = LoadBalancingRules()
    # Further names for the gateway: alias -> model id, tier or auto.
    aliases: Annotated[dict[Alias, Alias], Field(max_length=1000)] = {}


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


def parse(content: bytes, source: str) -> Profile:
    """Parses a profile from YAML. Raises InvalidProfile with `source`, line and key."""
    try:
        document = strict_yaml.loads(content, source)
    except YamlError as error:
        raise InvalidProfile(str(error)) from None
    try:
        return Profile.model_validate(document.data)
    except ValidationError as error:
        problem = strict_yaml.first_problem(error, Profile)
        if problem.path not in document.lines:  # a missing key: name it as in a file
            snake = tuple(to_snake(p) if isinstance(p, str) else p for p in problem.path)
            problem = replace(problem, path=snake)
        line = document.line(problem.path)
        where = f"line {line}: " if line else ""
        raise InvalidProfile(f"cannot use {source}: {where}{problem}") from None
