"""Model folders and files: there, and readable by those who have to read them."""

import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from magid.doctor.facts import (
    Facts,
    Finding,
    FindingSeverity,
    Folder,
    ModelFile,
    NotCollected,
    answering,
    configured,
    known,
)

_PRIVATE: Final = ("/tmp", "/var/tmp")  # magid's service has its own of these
_READ_BY: Final = "servers run as users of their own, in the group magi-models"
_REFUSED: Final = "Permission denied"
_UNFIT: Final = re.compile(r"[: '\"\\$;]")  # as magid.launcher.sandbox has them


def folders(facts: Facts) -> Iterator[Finding]:
    """The user magi can list every model folder."""
    for folder in known(facts.folders):
        yield from _of_folder(folder)


def _of_folder(folder: Folder) -> Iterator[Finding]:
    where = PurePosixPath(folder.path)
    if any(where.is_relative_to(private) for private in _PRIVATE):
        yield Finding(
            "model-folder-private",
            f"magid cannot see the model folder {where}",
            "its service has a /tmp and a /var/tmp of its own (PrivateTmp=)",
            do="move the models, for example to /var/lib/magi/models, and name that in model_paths",
        )
    elif folder.mount:
        point = shlex.quote(folder.mount)
        yield Finding(
            "model-folder-not-mounted",
            f"{folder.mount} is not mounted, and the model folder {where} is there",
            "/etc/fstab has it; a network file system may have been down at boot",
            run=(f"mount {point}", "magictl rescan"),
        )
    elif folder.late:
        yield Finding(
            "model-folder-hangs",
            f"the model folder {where} does not answer",
            "its file system hangs; models of it that run go on, and none can be started",
            do=f"see to the mount above {where}: `findmnt`, `dmesg`; where its server is gone for "
            "good, `umount -f` it; magid takes the folder up again by itself",
        )
    elif folder.missing:
        yield Finding(
            "model-folder-missing",
            f"there is no model folder {where}",
            "model_paths in /etc/magi/magid.yaml names it",
            run=(f"install -d -m 2775 -g magi-models {shlex.quote(folder.path)}", "magictl rescan"),
        )
    for path, why in folder.refused:
        yield _not_entered(folder, path, why)


def _not_entered(folder: Folder, path: str, why: str) -> Finding:
    within = PurePosixPath(path).is_relative_to(folder.path)
    verb, bits = ("list", "o+rx") if within else ("enter", "o+x")
    part = "or contains it" if within else "below it"
    what = f"magid cannot {verb} {path}: {why}"
    whose = f"it runs as the user magi, and the model folder {folder.path} is {part}"
    if why == _REFUSED:
        run = (f"chmod {bits} {shlex.quote(path)}", "magictl rescan")
        return Finding("model-folder-closed", what, whose, run=run)
    looks = f"see to {path}: `ls -ld {shlex.quote(path)}`, `dmesg`"
    return Finding("model-folder-unreadable", what, whose, do=looks)


def files(facts: Facts) -> Iterator[Finding]:
    """Every model file can be read within the sandbox of a server."""
    for file in known(facts.files):
        if file.refused:
            yield _refused(file)
    trial = known(facts.trial)
    ways = trial.ways or {}
    for path, why in (trial.files or {}).items():
        if why:
            yield _unread(path, why, ways.get(path, path), configured(facts).model_paths)


def _refused(file: ModelFile) -> Finding:
    name = shlex.quote(file.path)
    if file.target:
        do = "copy the file to where the link is; or add its folder to model_paths in magid.yaml:"
        copy = f"cp --remove-destination --reflink=auto {shlex.quote(file.target)} {name}"
        run: tuple[str, ...] = (copy, "magictl rescan")
    else:
        do = "put the file itself into a model folder, and set this aside:"
        run = (f"mv {name} {name}.off", "magictl rescan")
    return Finding(
        "model-file-refused",
        f"{file.path} cannot be run",
        f"it {file.refused}" if file.refused.startswith("is ") else file.refused,
        FindingSeverity.WARNING,
        do=do,
        run=run,
    )


def _unread(path: str, why: str, way: str, roots: Iterable[Path]) -> Finding:
    """`way` is the folder on the way that cannot be entered, or the file itself."""
    what = f"a server cannot read {path}"
    again = ("magictl rescan", "magictl apply")
    if why == _REFUSED and way != path:
        run: tuple[str, ...] = (f"chmod o+x {shlex.quote(way)}", *again)
        return Finding("model-way-closed", what, f"it cannot enter {way}; {_READ_BY}", run=run)
    if why == _REFUSED:
        run = (f"chmod o+r {shlex.quote(path)}", *again)
        return Finding("model-file-closed", what, f"{why}; {_READ_BY}", run=run)
    renamed = _renamed(path, roots)
    run = (*renamed, *again) if renamed else ()
    return Finding("model-file-unfit", what, why, do="rename or replace the file:", run=run)


def _renamed(path: str, roots: Iterable[Path]) -> tuple[str, ...]:
    """Commands that take the signs out of a path below a model folder that no unit can have."""
    above = next((str(root) for root in roots if PurePosixPath(path).is_relative_to(root)), path)
    commands, done = [], above
    for part in PurePosixPath(path).relative_to(above).parts:
        fit = _UNFIT.sub("_", part)
        if fit != part:
            commands.append(f"mv {shlex.quote(f'{done}/{part}')} {shlex.quote(f'{done}/{fit}')}")
        done = f"{done}/{fit}"
    return tuple(commands)


def broken(facts: Facts) -> Iterator[Finding]:
    """Every model file is one that llama.cpp could load."""
    files = () if isinstance(facts.files, NotCollected) else facts.files
    told = {file.path for file in files if file.refused}
    for path, why in answering(facts).broken:
        name = shlex.quote(path)
        if why.startswith("cannot be read"):
            # If the trial could run, it has reported this already, and in more detail.
            if isinstance(facts.trial, NotCollected):
                yield Finding(
                    "model-unread", f"magid cannot read {path}", why, run=(facts.trial.run,)
                )
            continue
        if path in told:
            continue
        what, _, remedy = why.partition("; ")
        if remedy:
            yield Finding(
                "model-unused",
                f"{path} is not used: it {what}",
                severity=FindingSeverity.WARNING,
                do=remedy,
            )
            continue
        yield Finding(
            "model-broken",
            f"{path} is broken: it {why}",
            "most often a download that was interrupted",
            FindingSeverity.WARNING,
            do="download it again; until then, set it aside:",
            run=(f"mv {name} {name}.broken", "magictl rescan"),
        )
