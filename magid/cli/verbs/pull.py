"""pull: downloads a model. download: the downloads there are."""

import argparse
import os
import sys
import time
from collections.abc import Iterable
from typing import Any, Final

from magid.cli.client import MODELS, Client, Refused, quoted
from magid.cli.output import ago, json_line, note, plain, print_json, size, span, table
from magid.cli.parser import Verbs

PATH: Final = "/api/library/downloads"
_LOOK_S: Final = 0.5
_AWAY_S: Final = 60.0  # that magid may be away: a restart
_WIDTH: Final = 24
_EXAMPLE: Final = "qwen3-8b-gguf-q4-k-m-0badcafe"
ENDED: Final = ("done", "failed", "paused")
FITS: Final = {"gpu": "on the GPUs", "memory": "on the processor", "no": "no"}


def add(verbs: Verbs) -> None:
    sub = verbs.add(
        "pull", pull, "download a model from the hub, or continue to",
        examples=(
            "magictl pull ORG/REPO:Q8_0", "magictl pull ORG/REPO --list",
            "magictl pull ORG/REPO/FILE.gguf --wait --json",
        ),
        json="the download as the API has it; with --wait a line for each change",
    )  # fmt: skip
    sub.add_argument("source", metavar="SOURCE", help="ORG/REPO, with :TAG, /FILE or @REVISION")
    sub.add_argument("--list", action="store_true", help="only show the models there are")
    sub.add_argument("--draft", action="store_true", help="also the small model that guesses ahead")
    sub.add_argument(
        "--wait", action="store_true", help="until it is done, also without a terminal"
    )
    sub.add_argument("--no-wait", action="store_true", help="return at once, also on a terminal")
    group = verbs.group("download", "list, pause, continue and remove downloads")
    group.add(
        "ls", ls, "all downloads, the newest first", aliases=("list",),
        examples=("magictl download ls", "magictl download ls --json"),
    )  # fmt: skip
    for name, run, text in (
        ("pause", change, "stop it, and keep what has come"),
        ("resume", change, "continue one that is paused or has failed"),
        ("rm", remove, "stop it, and remove what has come; a whole model stays"),
    ):
        line = f"magictl download {name} {_EXAMPLE}"
        sub = group.add(name, run, text, examples=(line, f"{line} --json"))
        sub.add_argument("id", metavar="ID", help="as `magictl download ls` shows it")


def pull(client: Client, args: argparse.Namespace) -> int:
    if args.list:
        return _list(client, args)
    body = {"source": args.source, "draft": args.draft}
    started = client.call("POST", PATH, body)
    is_shown = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    if args.no_wait or not (args.wait or is_shown):
        if args.json:
            print_json(started)
        else:
            print(f"{started['id']} is {started['state']}; see `magictl download ls`")
        return 0
    try:
        ended = _follow(client, started, is_shown=is_shown and not args.json, as_json=args.json)
    except KeyboardInterrupt:
        note(f"\nthe download goes on\ntry: magictl download pause {started['id']}, to stop it")
        return 130
    return _told(client, ended, as_json=args.json)


def _follow(client: Client, started: Any, *, is_shown: bool, as_json: bool) -> Any:
    """Returns the download when it has ended. Raises Refused if magid stays away."""
    download, last_state, seen_at = started, "", time.monotonic()
    while True:
        if is_shown:
            sys.stderr.write(f"\r\x1b[K{bar(download)}")
            sys.stderr.flush()
        elif download["state"] != last_state:
            last_state = download["state"]
            if as_json:
                json_line(download)
            else:
                note(f"{plain(download['source'])}: {last_state}")
        if download["state"] in ENDED:
            if is_shown:
                sys.stderr.write("\r\x1b[K")
            return download
        time.sleep(_LOOK_S)
        try:
            download = client.call("GET", f"{PATH}/{quoted(started['id'])}")
            seen_at = time.monotonic()
        except Refused as error:
            if error.code == "DownloadNotFound" or time.monotonic() - seen_at > _AWAY_S:
                raise


def bar(download: Any) -> str:
    """Returns the line that shows how far a download is. Pure."""
    name, state = plain(download["source"]), download["state"]
    total, done = download["totalBytes"], download["doneBytes"]
    if not total:
        reason = f": {plain(download['reason'])}" if download["reason"] else ""
        return f"{name}: {state}{reason}"[:200]
    filled = _WIDTH * done // total
    drawn = "#" * filled + "." * (_WIDTH - filled)
    left = f", {span(download['secondsLeft'])} left" if download["secondsLeft"] else ""
    rate = f", {size(download['bytesPerSecond'])}/s" if download["bytesPerSecond"] else ""
    reason = f"; {plain(download['reason'])}" if download["reason"] else ""
    share = f"{100 * done // total} %"
    return f"[{drawn}] {name}: {state} {share} of {size(total)}{rate}{left}{reason}"[:200]


def _told(client: Client, download: Any, *, as_json: bool) -> int:
    for text in download["notes"]:
        note(f"note:         {plain(text)}")
    if download["state"] == "done":
        if not as_json:
            _tell_where(client, download)
        return 0
    if download["state"] == "failed":
        raise Refused(str(download["reason"]))
    note(f"{plain(download['source'])} is paused\ntry: magictl download resume {download['id']}")
    return 1


def _tell_where(client: Client, download: Any) -> None:
    """Prints what is here, under which id, and what is still to be done to use it."""
    models = pulled_models(download, client.call("GET", f"{MODELS}/registry")["models"].values())
    known = "".join(f", as {model['modelId']}" for model in models)
    print(f"{plain(download['source'])} is here: {size(download['totalBytes'])}{known}")
    for model in models:
        if model["enabledOverride"] is False:
            note(f"it is disabled\ntry: magictl enable {model['modelId']}")
        elif not model["enabled"]:
            note(f"the profile leaves it out\ntry: magictl run {model['modelId']}, to use it on "
                 "demand")  # fmt: skip


def pulled_models(download: Any, models: Iterable[Any]) -> list[Any]:
    """Returns the models that the files of this download are. Pure."""
    names = [file["path"].replace(" ", "_") for file in download["files"]]
    ends = tuple(f"/{download['repository']}/{name}" for name in names)
    return [model for model in models if model["filePath"].endswith(ends)]


def _list(client: Client, args: argparse.Namespace) -> int:
    answer = client.call("GET", f"/api/library/variants?source={quoted(args.source)}")
    if args.json:
        print_json(answer)
        return 0
    rows = [
        [
            v["name"], v["file"] + (f" and {v['files'] - 1} more" if v["files"] > 1 else ""),
            size(v["sizeBytes"]), FITS.get(v["fits"], v["fits"]), ", ".join(v["companions"]),
        ]
        for v in answer["variants"]
    ]  # fmt: skip
    table(("NAME", "FILE", "SIZE", "FITS", "COMES WITH"), rows, "no GGUF models there")
    licence = answer["licence"] or "not named"
    note(f"commit:       {plain(answer['commit'])}, licence: {plain(licence)}")
    return 0


def ls(client: Client, args: argparse.Namespace) -> int:
    answer = client.call("GET", PATH)
    if args.json:
        print_json(answer)
        return 0
    rows = [
        [
            d["id"], d["source"], d["state"],
            f"{100 * d['doneBytes'] // d['totalBytes']} %" if d["totalBytes"] else "-",
            size(d["totalBytes"] or None), ago(d["updatedAt"]), d["reason"],
        ]
        for d in answer["downloads"]
    ]  # fmt: skip
    table(("ID", "SOURCE", "STATE", "DONE", "SIZE", "UPDATED", "WHY"), rows, "no downloads")
    return 0


def change(client: Client, args: argparse.Namespace) -> int:
    download = client.call("POST", f"{PATH}/{quoted(args.id)}/{args.action}")
    if args.json:
        print_json(download)
    else:
        print(f"{plain(download['source'])} is {download['state']}")
    return 0


def remove(client: Client, args: argparse.Namespace) -> int:
    answer = client.call("DELETE", f"{PATH}/{quoted(args.id)}")
    if args.json:
        print_json(answer)
    else:
        print(answer["message"])
    return 0
