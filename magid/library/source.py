"""What a person wants to have downloaded: `ORG/REPO:TAG` and its other spellings. Pure.

A repository, optionally a revision, and either a tag (part of a file's name, as llama.cpp's `-hf`
has it) or one file. The id of a job is made of these, so asking twice for one thing is one job.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

from magid.errors import InvalidInput

_NAME: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_REPOSITORY: Final = re.compile(rf"{_NAME}/{_NAME}")
_REVISION: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_./-]{0,253}[A-Za-z0-9_])?")
_TAG: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9_])?")
_PART: Final = re.compile(r"[A-Za-z0-9_+=,()\[\] -][A-Za-z0-9_.+=,()\[\] -]{0,199}")
_MAX_PATH: Final = 400
_ID: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")
_HOSTS: Final = ("huggingface.co", "hf.co", "www.huggingface.co")
_VIEWS: Final = ("resolve", "blob", "raw", "tree")  # parts of a page's address, before a revision
DEFAULT_REVISION: Final = "main"


@dataclass(frozen=True, slots=True)
class ModelSource:
    """One model of a hub. `tag` and `file` are "" where they are not given; never both are."""

    repository: str
    revision: str = DEFAULT_REVISION
    tag: str = ""
    file: str = ""
    draft: bool = False  # also the small model that guesses ahead, if there is one

    @property
    def text(self) -> str:
        """Returns the source as a person writes it."""
        at = "" if self.revision == DEFAULT_REVISION else f"@{self.revision}"
        if self.file:
            return f"{self.repository}/{self.file}{at}"
        return f"{self.repository}{at}" + (f":{self.tag}" if self.tag else "")

    @property
    def job_id(self) -> str:
        """Returns the job's id: what it is called, and a digest of all that it is."""
        words = (self.repository, self.revision, self.tag.lower(), self.file, str(self.draft))
        digest = hashlib.sha256("\0".join(words).encode()).hexdigest()[:8]
        name = self.file.rpartition("/")[2].removesuffix(".gguf")
        name = name or f"{self.repository.partition('/')[2]}-{self.tag}"
        readable = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")[:48].rstrip("-")
        return f"{readable}-{digest}" if readable else digest


def parse(text: str, *, draft: bool = False) -> ModelSource:
    """Parses `ORG/REPO`, with `:TAG`, `@REVISION`, `/FILE`, or as an address. Raises InvalidInput.

    `hf.co/ORG/REPO` and the addresses of the hub's pages are understood too.
    """
    words = text.strip()
    is_address = words.startswith(("https://", "http://"))
    if is_address:
        words = _in_address(words)
    host, _, rest = words.partition("/")
    if host.lower() in _HOSTS:
        words = rest
    elif is_address:
        raise _bad(text, f"it is an address of {host or 'no host'}, not of huggingface.co")
    return checked(_parted(words, draft=draft), text)


def _in_address(text: str) -> str:
    """Returns HOST/PATH of an address, decoded. Raises InvalidInput."""
    try:
        parsed = urlsplit(text)
        return f"{parsed.hostname}{unquote(parsed.path)}".rstrip("/")
    except ValueError as error:  # a host that no address can have
        raise _bad(text, f"it is not an address: {error}") from None


def _parted(words: str, *, draft: bool) -> ModelSource:
    """Returns the parts of `ORG/REPO...`, not checked yet."""
    parts = words.split("/")
    if len(parts) > 3 and parts[2] in _VIEWS:
        revision, rest = parts[3], "/".join(parts[4:])
        return ModelSource("/".join(parts[:2]), revision, "", rest, draft)
    words, _, revision = words.partition("@")
    revision, _, tag = revision.partition(":")
    if not tag and not revision:
        words, _, tag = words.partition(":")
    parts = words.split("/")
    revision = revision or DEFAULT_REVISION
    return ModelSource("/".join(parts[:2]), revision, tag, "/".join(parts[2:]), draft)


def checked(source: ModelSource, shown: str = "") -> ModelSource:
    """Returns the source if each part is well formed. Raises InvalidInput.

    The launcher calls it for what it is sent: only checked parts become arguments of a program.
    """
    text = shown or source.text
    if not _REPOSITORY.fullmatch(source.repository) or ".." in source.repository:
        raise _bad(text, "it should begin with ORG/REPOSITORY, as bartowski/Qwen3-8B-GGUF")
    if not _REVISION.fullmatch(source.revision) or ".." in source.revision:
        raise _bad(text, "the revision behind @ should be a branch, a tag or a commit")
    if source.tag and not _TAG.fullmatch(source.tag):
        raise _bad(text, "the tag behind : should be part of a file's name, as Q4_K_M")
    if source.tag and source.file:
        raise _bad(text, "a file needs no tag: give one of the two")
    if source.file and not is_file_path(source.file):
        raise _bad(text, f"{source.file!r} is no file of a repository that can be used here")
    return source


def is_file_path(path: str) -> bool:
    """Whether a path within a repository can be used here: plain letters, nothing hidden."""
    return len(path) <= _MAX_PATH and all(_PART.fullmatch(part) for part in path.split("/"))


def is_job_id(text: str) -> bool:
    """Whether this has the form of a job's id, which is also part of a unit's name."""
    return _ID.fullmatch(text) is not None


def _bad(text: str, why: str) -> InvalidInput:
    return InvalidInput(f"cannot use {text[:200]!r} as a source: {why}", field="source")
