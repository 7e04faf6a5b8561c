"""The registry's transitions: ids, overrides, vanished files, ports."""

import tracemalloc
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from magid.catalog.effective import effective_models
from magid.catalog.registry import (
    Merge,
    ModelEntry,
    Registry,
    allocate_ports,
    document_of,
    entry_of,
    fields_of,
    merge_scan,
    parse,
    pin_port,
    resolve_id,
    with_settings,
)
from magid.config.settings import Config
from magid.discovery.naming import spellings
from magid.discovery.tiers import Tier
from magid.errors import InvalidInput, ModelGone, ModelNotFound, PortTaken
from magid.llama.runtime_settings import RuntimeSettings
from tests.support.values import NOW, found, merged

KEEP = timedelta(days=90)
RANGE = (8080, 8083)


def with_override(merge: Merge, model_id: str) -> Registry:
    entry = replace(merge.registry.models[model_id], tier_override=Tier.FAST)
    return merge.registry.with_entry(entry)


def test_ids_come_from_the_name_and_clashes_are_numbered_in_path_order() -> None:
    merge = merged(found("x", "/m/1.gguf"), found("x", "/m/2.gguf"), found("y", "/m/3.gguf"))
    assert {i: m.path for i, m in merge.found.items()} == {
        "x": "/m/1.gguf",
        "x_2": "/m/2.gguf",
        "y": "/m/3.gguf",
    }
    assert merge.added == ("x", "x_2", "y")


def test_an_id_stays_while_the_file_stays_whatever_the_file_becomes() -> None:
    first = merged(found("x_fast", "/m/1.gguf"))
    again = merged(found("x_powerful", "/m/1.gguf"), registry=first.registry)
    assert list(again.found) == ["x_fast"]
    assert (again.added, again.removed) == ((), ())


def test_a_rescan_keeps_every_override() -> None:
    first = merged(found("x"), found("y"))
    settings = {"ctx_size": 4096, "extra_args": ("--no-mmap",)}
    entry = replace(
        first.registry.models["x"],
        tier_override=Tier.POWERFUL,
        thinking_override=False,
        enabled_override=True,
        ports=(8081,),
        port_pinned=True,
        settings=settings,
    )
    again = merged(found("x"), registry=first.registry.with_entry(entry))
    assert again.registry.models["x"] == entry
    assert again.removed == ("y",)


def test_a_vanished_file_keeps_its_entry_until_its_time_is_up() -> None:
    registry = with_override(merged(found("x"), found("y")), "x")
    gone = merge_scan(registry, [found("y")], now=NOW, keep=KEEP)
    assert gone.removed == ("x",)
    assert gone.registry.models["x"].missing_since == NOW
    later = merge_scan(gone.registry, [found("y")], now=NOW + KEEP, keep=KEEP)
    assert later.removed == ()
    assert later.registry.models["x"].missing_since == NOW
    back = merge_scan(later.registry, [found("x"), found("y")], now=NOW + KEEP, keep=KEEP)
    assert back.registry.models["x"] == registry.models["x"]
    expired = merge_scan(
        later.registry, [found("y")], now=NOW + KEEP + timedelta(seconds=1), keep=KEEP
    )
    assert list(expired.registry.models) == ["y"]


def test_nothing_is_forgotten_below_a_folder_that_cannot_be_read() -> None:
    registry = with_override(merged(found("x", "/mnt/disk/x.gguf")), "x")
    much_later = NOW + 10 * KEEP
    unmounted = merge_scan(registry, [], now=NOW, keep=KEEP, unreadable_roots=["/mnt/disk"])
    still = merge_scan(
        unmounted.registry, [], now=much_later, keep=KEEP, unreadable_roots=["/mnt/disk/"]
    )
    assert still.registry.models["x"].tier_override is Tier.FAST
    neighbour = merge_scan(
        unmounted.registry, [], now=much_later, keep=KEEP, unreadable_roots=["/mnt/dis"]
    )
    assert not neighbour.registry.models


def test_a_moved_file_takes_its_entry_along() -> None:
    registry = with_override(merged(found("x", "/m/old/x.gguf")), "x")
    moved = merged(found("x", "/m/new/x.gguf"), registry=registry)
    assert moved.registry.models["x"].tier_override is Tier.FAST
    assert moved.registry.models["x"].path == "/m/new/x.gguf"


def test_another_file_of_the_same_name_is_not_mistaken_for_a_moved_one() -> None:
    registry = with_override(merged(found("x", "/m/old/x.gguf")), "x")
    other = merged(found("x", "/m/new/x.gguf", size_bytes=7), registry=registry)
    assert other.found.keys() == {"x_2"}
    assert other.registry.models["x"].tier_override is Tier.FAST


def test_a_copy_beside_the_original_does_not_take_its_entry() -> None:
    registry = with_override(merged(found("x", "/m/z.gguf")), "x")
    both = merged(found("x", "/m/a.gguf"), found("x", "/m/z.gguf"), registry=registry)
    assert both.found["x"].path == "/m/z.gguf"
    assert both.found["x_2"].path == "/m/a.gguf"


@pytest.mark.parametrize(
    ("asked", "known", "answer"),
    [
        ("a_8p0b_q4km", "a_8p0b_q4km", "a_8p0b_q4km"),
        ("a_8b_q4km", "a_8p0b_q4km", "a_8p0b_q4km"),
        ("a_8p0b_q4km", "a_8b_q4km", "a_8b_q4km"),
        ("a_0p5b_q4km", "a_0p5b_q4km", "a_0p5b_q4km"),
        ("moe_8b_70b", "moe_8p0b_70b", "moe_8p0b_70b"),
        ("moe_8b_70p0b", "moe_8p0b_70b", "moe_8p0b_70b"),
        ("moe_8p0b_70p0b", "moe_8p0b_70b", "moe_8p0b_70b"),
    ],
)
def test_both_spellings_of_a_size_resolve(asked: str, known: str, answer: str) -> None:
    assert resolve_id(asked, {known, "other"}) == answer


def test_the_exact_spelling_wins() -> None:
    assert resolve_id("a_8b_x", {"a_8b_x", "a_8p0b_x"}) == "a_8b_x"


@pytest.mark.parametrize("asked", ["", "nope", "a_5b_q4km", "../x", "a_8p5b_x"])
def test_an_unknown_id_says_so(asked: str) -> None:
    with pytest.raises(ModelNotFound, match="cannot find model"):
        resolve_id(asked, {"a_0p5b_q4km", "a_8b_x"})


def refusal_bytes(name: str) -> int:
    """How long the error for an id that no model has is."""
    with pytest.raises(ModelNotFound) as error:
        resolve_id(name, {"a_8b_x"})
    return len(error.value.message) + len(error.value.details["modelId"])


def test_of_a_long_id_nothing_is_kept() -> None:
    """A caller writes it; its 16 spellings would have been kept, in the place of the models'."""
    names = [f"{number}b_8b_7b_6b_{'x' * 15_000}" for number in range(100)]
    tracemalloc.start()
    try:
        for name in names:
            assert refusal_bytes(name) < 2000
        kept, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 2**18
    assert most < 2**20


def test_names_of_callers_do_not_crowd_out_those_of_models() -> None:
    spellings("a_8p0b_x")
    before = spellings.cache_info().currsize
    for number in range(100):
        with pytest.raises(ModelNotFound):
            resolve_id(f"nobody_{number}b", {"a_8p0b_x"})
    assert spellings.cache_info().currsize == before


def test_a_model_without_its_file_is_gone_and_not_unknown() -> None:
    registry = merge_scan(merged(found("x")).registry, [], now=NOW, keep=KEEP).registry
    with pytest.raises(ModelGone, match=r"its file '/models/x\.gguf' has been missing"):
        entry_of(registry, "x")


# -- ports -----------------------------------------------------------------------------------


def ports_of(registry: Registry) -> dict[str, tuple[int, ...]]:
    return {i: e.ports for i, e in registry.models.items() if e.ports}


def entries(**ports: tuple[int, ...]) -> Registry:
    return Registry(
        models={
            i: ModelEntry(model_id=i, path=f"/m/{i}", size_bytes=1, discovered_at=NOW, ports=given)
            for i, given in ports.items()
        }
    )


@pytest.mark.parametrize(
    ("before", "demand", "after", "unserved"),
    [
        ({"a": (), "b": ()}, {"a": 1, "b": 1}, {"a": (8080,), "b": (8081,)}, ()),
        ({"a": (8081,), "b": ()}, {"a": 1, "b": 1}, {"a": (8081,), "b": (8080,)}, ()),
        ({"a": (8080,)}, {"a": 3}, {"a": (8080, 8081, 8082)}, ()),
        ({"a": (8080, 8081)}, {"a": 1}, {"a": (8080,)}, ()),
        ({"a": (9000,)}, {"a": 1}, {"a": (8080,)}, ()),  # the range was changed
        ({"a": (8080,), "b": (8080,)}, {"a": 1, "b": 1}, {"a": (8080,), "b": (8081,)}, ()),
        ({"a": (8080,), "b": ()}, {"b": 1}, {"a": (8080,), "b": (8081,)}, ()),  # remembered
        ({"a": (8080,), "b": ()}, {"b": 4}, {"b": (8081, 8082, 8083, 8080)}, ()),  # needed
        ({"a": (), "b": ()}, {"a": 4, "b": 1}, {"a": (8080, 8081, 8082, 8083)}, ("b",)),
        ({"a": (), "b": ()}, {"a": 5, "b": 1}, {"b": (8080,)}, ("a",)),
        ({"a": ()}, {}, {}, ()),
    ],
)
def test_ports(
    before: dict[str, tuple[int, ...]],
    demand: dict[str, int],
    after: dict[str, tuple[int, ...]],
    unserved: tuple[str, ...],
) -> None:
    registry, without = allocate_ports(entries(**before), demand, RANGE)
    assert ports_of(registry) == after
    assert without == unserved
    assert allocate_ports(registry, demand, RANGE) == (registry, without)  # stable


def test_a_pinned_port_is_never_taken_away() -> None:
    registry = entries(a=(), b=())
    registry = pin_port(registry, "a", 8080, enabled=(), port_range=RANGE)
    registry, without = allocate_ports(registry, {"b": 4}, RANGE)
    assert without == ("b",)
    registry, without = allocate_ports(registry, {"b": 3, "a": 1}, RANGE)
    assert ports_of(registry) == {"a": (8080,), "b": (8081, 8082, 8083)}


@pytest.mark.parametrize("port", [8079, 8084, 1, 65535])
def test_a_pinned_port_is_inside_the_range(port: int) -> None:
    with pytest.raises(InvalidInput, match="outside portRange 8080-8083"):
        pin_port(entries(a=()), "a", port, enabled=(), port_range=RANGE)


def test_a_port_in_use_cannot_be_pinned() -> None:
    with pytest.raises(PortTaken, match="it belongs to 'b'"):
        pin_port(entries(a=(), b=(8080,)), "a", 8080, enabled={"b"}, port_range=RANGE)


def test_a_merely_remembered_port_changes_hands() -> None:
    registry = pin_port(entries(a=(), b=(8080,)), "a", 8080, enabled=(), port_range=RANGE)
    assert ports_of(registry) == {"a": (8080,)}
    with pytest.raises(PortTaken):  # but a pinned one does not
        pin_port(registry, "b", 8080, enabled=(), port_range=RANGE)


def test_two_models_exchange_their_ports() -> None:
    both: dict[str, Any] = {"enabled": {"a", "b"}, "port_range": RANGE, "exchange": True}
    registry = entries(a=(8080, 8082), b=(8081, 8083))
    registry = pin_port(registry, "a", 8081, **both)
    assert ports_of(registry) == {"a": (8081, 8082), "b": (8080, 8083)}
    registry = pin_port(registry, "b", 8080, **both)
    assert ports_of(registry) == {"a": (8081, 8082), "b": (8080, 8083)}
    with pytest.raises(PortTaken):  # a pinned one is not exchanged
        pin_port(registry, "b", 8081, **both)
    registry = pin_port(entries(a=(8080, 8082), b=()), "a", 8082, **both)
    assert ports_of(registry) == {"a": (8082,)}
    registry = pin_port(entries(a=(), b=(8080, 8083)), "a", 8080, **both)
    assert ports_of(registry) == {"a": (8080,), "b": (8083,)}


def test_a_pin_can_be_given_back() -> None:
    registry = pin_port(entries(a=(), b=()), "a", 8083, enabled=(), port_range=RANGE)
    registry = pin_port(registry, "a", None, enabled=(), port_range=RANGE)
    assert not registry.models["a"].port_pinned
    assert pin_port(registry, "b", 8083, enabled=(), port_range=RANGE).models["b"].port_pinned


# -- the document ----------------------------------------------------------------------------


def test_the_document_reads_back_as_it_was_written() -> None:
    registry = with_override(merged(found("x"), found("y")), "x")
    entry = with_settings(registry.models["y"], {"extra_args": ("--seed", "1")})
    registry = registry.with_entry(entry)
    assert parse(document_of(registry)) == registry
    models = {model_id: fields_of(entry) for model_id, entry in registry.models.items()}
    assert parse({**document_of(registry), "models": models}) == registry  # with all defaults


def test_a_setting_of_a_later_version_is_kept_and_not_used() -> None:
    merge = merged(found("x"))
    document = document_of(merge.registry)
    document["models"]["x"]["settings"] = {"ctxSize": 512, "laterSetting": {"a": [1]}, "n": None}
    registry = parse(document)
    changed = registry.with_entry(with_settings(registry.models["x"], {"ctx_size": None}))
    written = document_of(changed)["models"]["x"]["settings"]
    assert written["laterSetting"] == {"a": [1]}
    assert effective_models(changed, merge.found, None, Config())["x"].settings == RuntimeSettings()


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (None, "Expected `object`, got `null`"),
        ([], "Expected `object`, got `array`"),
        ({"models": []}, "models: "),
        ({"models": {"x": {}}}, "models.x: .*`modelId`"),
        ({"unknown": 1}, "unknown field `unknown`"),
        ({"lastScan": "2026-01-02T10:30:00"}, "timezone"),
        (
            {
                "models": {
                    "x": {
                        "modelId": "y",
                        "path": "/m",
                        "sizeBytes": 1,
                        "discoveredAt": "2026-01-02T10:30:00Z",
                    }
                }
            },
            "has the id 'y'",
        ),
    ],
)
def test_a_document_that_does_not_fit_says_where(document: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse(document)


def test_found_models_differ_only_where_told() -> None:
    assert replace(found("x"), stamp="s2") == found("x", stamp="s2")
