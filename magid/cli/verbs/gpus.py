"""gpus: the GPUs that servers can use, their memory, and the servers on them."""

import argparse
from typing import Any

from magid.cli.client import Client
from magid.cli.output import note, print_json, size, table
from magid.cli.parser import Verbs


def add(verbs: Verbs) -> None:
    sub = verbs.add(
        "gpus", gpus, "the GPUs that llama-server finds, and their memory",
        examples=("magictl gpus", "magictl gpus --refresh", "magictl gpus --json"),
    )  # fmt: skip
    sub.add_argument("--refresh", action="store_true", help="ask llama-server again first")


def gpus(client: Client, args: argparse.Namespace) -> int:
    call = ("POST", "/api/gpus/refresh") if args.refresh else ("GET", "/api/gpus")
    answer = client.call(*call)
    if args.json:
        print_json(answer)
        return 0
    table(
        ("GPU", "DESCRIPTION", "KIND", "TOTAL", "FREE", "OTHERS", "SERVERS"),
        [_row(gpu) for gpu in answer["gpus"]],
        _nothing(answer),
    )
    if answer["gpus"] and answer["serversAnywhere"]:
        names = ", ".join(dict.fromkeys(s["modelId"] for s in answer["serversAnywhere"]))
        note(f"note:         llama-server itself chose where these run: {names}")
    if answer["problem"]:
        note(f"problem:      {answer['problem']}")
    return 0


def _row(gpu: Any) -> list[object]:
    names = [gpu["name"], *(other["name"] for other in gpu["alsoListedAs"])]
    return [
        " = ".join(names), gpu["description"], "part" if gpu["isPartition"] else gpu["kind"],
        size(gpu["totalBytes"]), size(gpu["freeBytes"]), size(gpu["othersBytes"]),
        ", ".join(server["modelId"] for server in gpu["servers"]),
    ]  # fmt: skip


def _nothing(answer: Any) -> str:
    if answer["listedAt"] is not None:
        return "no GPUs: llama-server finds none, and models run on the processor"
    return "the GPUs are not known" if answer["problem"] else "the GPUs are not listed yet"
