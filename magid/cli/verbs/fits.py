"""fits: what memory a model would need, and whether that fits now."""

import argparse
from typing import Any
from urllib.parse import urlencode

from magid.cli.client import MODELS, Client, quoted
from magid.cli.model_names import named
from magid.cli.output import note, print_json, say, size, table
from magid.cli.parser import Verbs

EXAMPLE = "qwen3_4p0b_q4km_fast"
_ROOM = ("yes", "tight")
_NO_ROOM = 3


def add(verbs: Verbs) -> None:
    sub = verbs.add(
        "fits", fits, "the memory that a model would need, and whether that is free; "
        "exit status 3 if not",
        examples=(f"magictl fits {EXAMPLE}", f"magictl fits {EXAMPLE} --ctx 32768 --parallel 4",
                  f"magictl fits {EXAMPLE} --json"),
    )  # fmt: skip
    sub.add_argument("model", metavar="MODEL")
    sub.add_argument("--ctx", type=int, metavar="N",
                     help="with this context in tokens (its setting ctxSize)")  # fmt: skip
    sub.add_argument("--parallel", type=int, metavar="N",
                     help="with so many slots (its setting parallel)")  # fmt: skip


def fits(client: Client, args: argparse.Namespace) -> int:
    given = {"ctxSize": args.ctx, "parallel": args.parallel}
    query = urlencode({key: value for key, value in given.items() if value is not None})
    answer = named(client, lambda name: _asked(client, name, query))(args.model)
    if args.json:
        print_json(answer)
    else:
        _show(answer)
    return 0 if answer["fits"] in _ROOM else _NO_ROOM


def _asked(client: Client, model_id: str, query: str) -> Any:
    path = f"{MODELS}/{quoted(model_id)}/memory"
    return client.call("GET", f"{path}?{query}" if query else path)


def _show(answer: Any) -> None:
    host = answer["host"]
    if host:
        rows = [*map(_device, answer["devices"]), *_of_host(host)]
        table(("MEMORY", "WEIGHTS", "CONTEXT", "COMPUTE", "TOTAL", "FREE"), rows, "")
    say(f"fits: {answer['fits']}")
    note(f"why:          {answer['why']}")
    if answer["draftBytes"] is not None:
        note(f"draft:        {size(answer['draftBytes'])} of it")
    if answer["fits"] != "yes" and answer["fittingCtxSize"]:
        note(f"note:         without ctxSize llama-server reduces the context itself: to "
             f"{answer['fittingCtxSize']} when this was predicted")  # fmt: skip


def _device(device: Any) -> list[object]:
    return [*_need(device["name"], device), size(device["freeBytes"])]


def _of_host(host: Any) -> list[list[object]]:
    """The machine's memory: kinds of buffers, where there are several, in rows of their own."""
    return [[*_need(one["name"], one), size(host["availableBytes"])] for one in host["buffers"]]


def _need(name: str, need: Any) -> list[object]:
    kinds = ("modelBytes", "contextBytes", "computeBytes", "totalBytes")
    return [name, *(size(need[kind]) for kind in kinds)]
