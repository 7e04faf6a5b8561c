"""The package sources of a machine with apt: sources.list(5), in both styles."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

SUITES = frozenset(
    {
        *("oldoldstable", "oldstable", "stable", "testing", "unstable"),
        *("bullseye", "bookworm", "trixie", "forky", "duke", "sid"),
    }
)


@dataclass(frozen=True, slots=True)
class Source:
    """One `deb` line of the machine: where it leads, and what it takes from there."""

    uri: str
    suite: str
    components: tuple[str, ...]


def parse_list(text: str) -> list[Source]:
    """The sources of a one-line-style file (sources.list(5)); options in brackets are left out."""
    sources = []
    for line in text.splitlines():
        words = re.sub(r"\[[^\]]*\]", " ", line.partition("#")[0]).split()
        if len(words) >= 3 and words[0] == "deb":
            sources.append(Source(words[1], words[2], tuple(words[3:])))
    return sources


def parse_deb822(text: str) -> list[Source]:
    """The enabled sources of a deb822-style file (sources.list(5)), each combination apart."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    sources = []
    for stanza in re.split(r"\n\s*\n", "\n".join(lines)):
        fields = _fields(stanza)
        if "deb" not in fields.get("types", "").split() or _is_off(fields.get("enabled", "yes")):
            continue
        components = tuple(fields.get("components", "").split())
        sources += [
            Source(uri, suite, components)
            for uri in fields.get("uris", "").split()
            for suite in fields.get("suites", "").split()
        ]
    return sources


def _fields(stanza: str) -> dict[str, str]:
    """Field name in lower case -> value, continuation lines joined."""
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line[:1] in (" ", "\t"):
            fields[name] = f"{fields.get(name, '')} {line.strip()}"
        elif ":" in line:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
    return fields


def _is_off(value: str) -> bool:
    return value.lower() in ("no", "false", "without", "off", "disable", "0")


def archives(sources: Iterable[Source]) -> list[str]:
    """The addresses that may be Debian's main archive, the likeliest first, each once.

    Another publisher may use Debian's release names too; an address that ends in `debian` goes
    first. Asking the wrong one does no harm: its index is not signed with Debian's keys.
    """
    found = [
        source.uri.rstrip("/")
        for source in sources
        if source.suite.rstrip("/") in SUITES
        and "main" in source.components
        and not source.uri.startswith("cdrom:")
    ]
    return sorted(dict.fromkeys(found), key=lambda uri: PurePosixPath(uri).stem != "debian")


def machine_sources(etc: Path) -> list[Source]:
    """What the apt configuration folder `etc` names; files that cannot be read are left out."""
    sources: list[Source] = []
    for path in (etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))):
        try:
            text = path.read_text(errors="replace")
        except OSError:
            continue
        if path.suffix == ".list":
            sources += parse_list(text)
        elif path.suffix == ".sources":
            sources += parse_deb822(text)
    return sources
