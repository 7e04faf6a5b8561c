"""Handlers of the page: its document at `/`, for browsers, and its files."""

from magid.api import page
from magid.api.context import Context
from magid.api.page import PageFile
from magid.api.reply import Call, Reply, cached
from magid.http import request_rules

_YEAR = "public, max-age=31536000, immutable"  # a new content has a new name
_VARY = "Accept, Accept-Encoding, Origin"


async def root(ctx: Context, call: Call) -> Reply:
    """The page, for browsers; for others what Ollama's clients check before their first request."""
    vary = {"Vary": _VARY}
    if "text/html" not in (call.accept or ""):
        text = "text/plain; charset=utf-8"
        return Reply(b"Ollama is running", headers=vary, content_type=text)
    index = ctx.page.index
    if index is None:
        return Reply(
            f"{ctx.page.problem}\n".encode(), 404, vary, content_type="text/plain; charset=utf-8"
        )
    return await _sent(index, call, {"Cache-Control": "no-cache"})


async def asset(ctx: Context, call: Call) -> Reply:
    """A file of the page, by its name, which contains a hash of it."""
    name = call.params["name"]
    file = ctx.page.assets.get(name)
    if file is None:
        raise request_rules.unknown_path(f"/assets/{name[:100]}")
    return await _sent(file, call, {"Cache-Control": _YEAR})


async def _sent(file: PageFile, call: Call, caching: dict[str, str]) -> Reply:
    body, etag, coding = file.body, file.etag, {}
    if page.takes_gzip(call.accept_encoding) and (packed := await page.packed(file)):
        # Other bytes, so another strong tag.
        body, etag, coding = packed, f'{etag[:-1]}-gzip"', {"Content-Encoding": "gzip"}
    answer = cached(body, etag, call, {**page.HEADERS, **caching, **coding, "Vary": _VARY})
    return Reply(answer.body, answer.status, answer.headers, file.content_type)
