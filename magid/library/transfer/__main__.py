"""`magi-download ACTION ...`: one action on one job, by itself or as a unit.

    run     download; ends when it is done, has failed, or is told to stop by SIGTERM
    pause   note that a person has paused it
    remove  forget the job and its parts; a model that is here stays
    list    print the models of a repository as JSON
    check   print the files that models have at the hub now, with their digests, a line of JSON each

Arguments hold nothing secret: the token comes as a credential, or from the file of --token-path.
The exit status is 0, or 1 if the download has failed: systemd does not start it again then.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn

from magid.library import job
from magid.library.job import JobStatus
from magid.library.selection import variants
from magid.library.source import ModelSource, checked
from magid.library.transfer import checking
from magid.library.transfer.fetching import Patience
from magid.library.transfer.http_client import HubSilent
from magid.library.transfer.hub import Refusal, Revision
from magid.library.transfer.running import Options, RunningJob, Stopped

CREDENTIAL: Final = "hub-token"
_MAX_TOKEN_BYTES: Final = 4096
_LOCK_S: Final = 15.0  # for a process that was told to stop
_UMASK: Final = 0o002  # the group may delete what is downloaded


def main(arguments: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in magid's terminal is for magid
    os.umask(_UMASK)
    source = checked(ModelSource(args.repository, args.revision, args.tag, args.file, args.draft))
    options = _options(args)
    try:
        if args.action == "list":
            return _list(options, source)
        if args.action == "check":
            return _check(options, [source, *map(_model, args.model)])
        return {"run": _run, "pause": _pause, "remove": _remove}[args.action](options, source)
    except Stopped:
        return 0
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        return _say(f"cannot {args.action} the download: {error.strerror or error}{where}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="magi-download", allow_abbrev=False)
    parser.add_argument("action", choices=("run", "pause", "remove", "list", "check"))
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--repository", required=True)
    parser.add_argument("--revision", required=True)
    for name in ("tag", "file", "token-path"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--draft", action="store_true")
    parser.add_argument("--model", action="append", default=[])  # REPOSITORY:REVISION:FILE
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--reserve", type=int, default=1 << 30)
    parser.add_argument("--rate-limit", type=int, default=0)
    parser.add_argument("--stall", type=float, default=30.0)
    parser.add_argument("--give-up", type=float, default=3600.0)
    parser.add_argument("--first-pause", type=float, default=1.0)
    return parser


def _options(args: argparse.Namespace) -> Options:
    return Options(
        library=args.library,
        endpoint=args.endpoint,
        token=_token(args.token_path),
        token_path=args.token_path,
        at_once=max(1, args.at_once),
        reserve=args.reserve,
        rate_limit=args.rate_limit,
        stall_s=args.stall,
        patience=Patience(args.first_pause, args.give_up),
    )


def _token(path: str) -> str:
    """Returns the token of systemd's credential, else of the file; "" if there is none."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    place = Path(folder) / CREDENTIAL if folder else Path(path) if path else None
    if place is None:
        return ""
    with suppress(OSError, UnicodeDecodeError), place.open("rb") as file:
        token = file.read(_MAX_TOKEN_BYTES).decode("ascii").strip()
        if token.isprintable() and " " not in token:
            return token
    return ""


def _stop(*_: object) -> NoReturn:
    raise Stopped


# -- actions ---------------------------------------------------------------------------------


def _run(options: Options, source: ModelSource) -> int:
    folder = job.jobs_folder(options.library) / source.job_id
    folder.mkdir(parents=True, exist_ok=True)
    lock = job.take(folder / job.LOCK)
    if lock is None:
        return _say(f"{source.text} is being downloaded already", 0)
    status = job.read_status(folder) or JobStatus(source.job_id, source, time.time())
    if status.state == "done":
        status = JobStatus(source.job_id, source, time.time())
    status.was_stopped = False
    result = RunningJob(options, folder, status).run()
    notes = "".join(f"\n{note}" for note in status.notes)
    return _say(
        f"{source.text}: {status.state}: {status.reason}".removesuffix(": ") + notes, result
    )


def _pause(options: Options, source: ModelSource) -> int:
    folder = job.jobs_folder(options.library) / source.job_id
    if not folder.is_dir() or (lock := _lock(folder)) is None:
        return 0
    status = job.read_status(folder)
    if status is not None and status.state not in ("done", "failed"):
        status.state, status.reason, status.was_stopped = "paused", "", False
        job.write_status(folder, status, durably=True)
    os.close(lock)
    return 0


def _remove(options: Options, source: ModelSource) -> int:
    folder = job.jobs_folder(options.library) / source.job_id
    if not folder.is_dir():
        return 0
    if (lock := _lock(folder)) is None:
        return _say("its process does not end")
    shutil.rmtree(folder)
    os.close(lock)
    return 0


def _lock(folder: Path) -> int | None:
    deadline = time.monotonic() + _LOCK_S
    while (lock := job.take(folder / job.LOCK)) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return lock


def _list(options: Options, source: ModelSource) -> int:
    """Prints what the hub has; a refusal too, as this goes to magid and no person."""
    try:
        revision = options.hub().revision(source)
        answer = {"commit": revision.commit, **_variants(revision)}
    except (Refusal, HubSilent) as error:
        answer = checking.failure(error, source)
    _write(json.dumps(answer) + "\n")
    return 0


def _check(options: Options, sources: Sequence[ModelSource]) -> int:
    checking.check(options.hub, sources, _write)
    return 0


def _write(line: str) -> None:
    sys.stdout.write(line)
    sys.stdout.flush()


def _model(text: str) -> ModelSource:
    """Returns a further model of a question; none of its parts has a colon. Raises InvalidInput."""
    repository, _, rest = text.partition(":")
    revision, _, file = rest.partition(":")
    return checked(ModelSource(repository, revision, file=file))


def _variants(revision: Revision) -> dict[str, Any]:
    """Returns what there is to choose from."""
    rows = [
        {
            "name": variant.name,
            "file": variant.files[0].path,
            "files": len(variant.files),
            "companions": [file.path for file in variant.companions],
            "sizeBytes": variant.size,
        }
        for variant in variants(revision.files)
    ]
    return {"licence": revision.licence, "variants": rows}


def _say(text: str, status: int = 1) -> int:
    sys.stderr.write(f"{text}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
