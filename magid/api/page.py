"""The files of the page, read once at the start and served from memory; no request touches a disk.

`packaging/page` builds them: `index.html`, and `assets/NAME-HASH.EXT`, whose names change with
their content. Where they are not, `problem` says why, and how to get them; all else works.
"""

import asyncio
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from magid.api.reply import etag_of

MAX_FILES = 64
MAX_BYTES = 4 * 2**20  # of all files together
_INDEX = "index.html"
_ASSETS = "assets"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._]*(?:-[A-Za-z0-9._]+)*-[A-Za-z0-9]{8,64}\.([a-z0-9]+)")
_TYPES = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "png": "image/png",
    "svg": "image/svg+xml",
    "webmanifest": "application/manifest+json",
}
TYPES = tuple(sorted({kind.partition(";")[0] for kind in _TYPES.values()}))
_DENSE = frozenset({"image/png"})  # compressed already


class PageFile(Struct):
    """One file. `packed` is its body in gzip; empty where that saves nothing; None: not tried."""

    body: bytes
    content_type: str
    etag: str
    packed: bytes | None = None


class Page(Struct, frozen=True):
    """`problem` is empty, or says for a person why there is no page."""

    index: PageFile | None = None
    assets: Mapping[str, PageFile] = {}
    problem: str = "cannot show the page: it is switched off"


def read(folder: Path) -> Page:
    """Reads the built page. A folder that cannot be used makes a Page with a problem. Blocks."""
    try:
        index, assets = _read_index(folder), _read_assets(folder / _ASSETS)
    except FileNotFoundError:
        return Page(problem=_missing(folder))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        return Page(problem=f"cannot show the page: {folder}: {why}; {_REMEDY}")
    return Page(index, assets, "")


_REMEDY = (
    "in a checkout, packaging/page builds it and says what it lacks; on Debian, it comes with the "
    "package magi (apt reinstall magi); all else works, magictl too"
)


def _missing(folder: Path) -> str:
    return f"cannot show the page: {folder} has none; {_REMEDY}"


def _read_index(folder: Path) -> PageFile:
    body = _content(folder / _INDEX, MAX_BYTES)
    return PageFile(body, "text/html; charset=utf-8", etag_of(body))


def _read_assets(folder: Path) -> dict[str, PageFile]:
    """Raises ValueError for a name without a hash, and for more than the bounds allow."""
    found: dict[str, PageFile] = {}
    left = MAX_BYTES
    for path in sorted(folder.iterdir()):
        match = _NAME.fullmatch(path.name)
        if match is None or match[1] not in _TYPES:
            raise ValueError(f"assets/{path.name} is not NAME-HASH.EXT of a known kind")
        body = _content(path, left)
        left -= len(body)
        found[path.name] = PageFile(body, _TYPES[match[1]], etag_of(body))
        if len(found) > MAX_FILES:
            raise ValueError(f"assets has over {MAX_FILES} files")
    return found


def _content(path: Path, limit: int) -> bytes:
    """Returns a regular file's content. A pipe or device, which could block, is a ValueError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:  # noqa: PTH123  # of a descriptor
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError(f"{path.name} is not a file")
        body = file.read(limit + 1)
    if len(body) > limit:
        raise ValueError(f"its files are over {MAX_BYTES} bytes together")
    return body


async def packed(file: PageFile) -> bytes:
    """Returns the file in gzip, or nothing where that saves nothing. Compresses it once."""
    if file.packed is None:
        file.packed = await asyncio.to_thread(_gzip, file)
    return file.packed


def _gzip(file: PageFile) -> bytes:
    if file.content_type in _DENSE:
        return b""
    import gzip  # late: no start waits for it

    made = gzip.compress(file.body, 9, mtime=0)
    return made if len(made) < len(file.body) else b""


def takes_gzip(accept_encoding: str | None) -> bool:
    """Whether a client takes gzip (RFC 9110 12.5.3). Pure."""
    for part in (accept_encoding or "").lower().split(","):
        coding, _, quality = part.partition(";")
        if coding.strip() in ("gzip", "x-gzip", "*"):
            return re.fullmatch(r"\s*q\s*=\s*0(?:\.0*)?\s*", quality) is None
    return False


# What the page may load and do: nothing but its own scripts, styles, images and connections.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types magid"  # for the address of its worker
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}
