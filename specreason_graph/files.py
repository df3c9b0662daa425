"""Files that this package makes: private to their owner, written beside and renamed, and never over a database."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

from specreason_graph.errors import UsageError

FILE_MODE, FOLDER_MODE = 0o600, 0o700
"""Permissions of new files and folders: their owner alone. Runs hold questions, answers and addresses of servers."""
SQLITE = b"SQLite format 3\0"
"""The bytes that every SQLite database begins with, unless it is encrypted or empty."""
COMPANIONS = ("-wal", "-shm", "-journal", ".lock", ".claims")
"""Endings of the files beside a database that belong to it."""
STREAMS = ("/dev/stdout", "/dev/stderr", "/dev/null", "/dev/tty")
"""Devices that results may be written to; so may ``/dev/fd/N``."""
EFFECTIVE = os.access in os.supports_effective_ids
"""Whether the system can say what the user may do on whose behalf this process works."""
ANOTHER = "name another file with -o"


def write_file(target: Path, text: str, kept: Iterable[Path] = ()) -> None:
    """Write a file for the user as a whole: a reader sees the old file or the new one, and an old one keeps its mode.

    Folders on the way are made. A pipe is written into. Raises `UsageError` where `check_target` does and for a file
    that cannot be written.
    """
    if not is_stream(target):
        with written_beside(target, kept) as place:
            place.write_text(text, encoding="utf-8")
        return
    with open_lines(target, kept) as stream, write_errors(target):
        stream.write(text)
        stream.flush()


@contextmanager
def written_beside(target: Path, kept: Iterable[Path] = ()) -> Iterator[Path]:
    """Yield a path in a private folder beside ``target``; what is written there takes the place of ``target``."""
    check_target(target, kept)
    with write_errors(target):
        make_folder(target.parent)
        with TemporaryDirectory(prefix=".specreason-", dir=target.parent) as folder:
            place = Path(folder, target.name)
            yield place
            with place.open("rb") as finished:
                os.fchmod(finished.fileno(), _mode_of(target))
                os.fsync(finished.fileno())  # else a crash soon after could leave an empty file under the name
            place.replace(target)  # a link is replaced, and what it points to is not touched


def open_lines(target: Path, kept: Iterable[Path] = ()) -> TextIO:
    """Open a file or a pipe for lines that are added one by one; ``kept`` and errors as in `check_target`."""
    check_target(target, kept)
    with write_errors(target):
        # Without O_NONBLOCK a named pipe that nobody reads would be waited for, perhaps for ever.
        opened = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, FILE_MODE)
        os.set_blocking(opened, True)
        return open(opened, "a", encoding="utf-8")  # noqa: PTH123 - of a descriptor


def check_target(target: Path, kept: Iterable[Path] = ()) -> None:
    """Raise `UsageError` where ``target`` cannot be written or must not be.

    Refused are databases and the files beside them, ``kept`` (files that the command reads or writes), by whatever name
    or link, and folders, devices and sockets.
    """
    # First of all, and by name and inode: a database that is open in this process must not be opened here as a file.
    for each in (whole for file in kept for whole in (file, *_beside(file))):
        if _is_same(target, each):
            raise UsageError(f"{target} would be overwritten with the results", hint=ANOTHER)
    with write_errors(target):
        mode = target.stat().st_mode if target.exists() else stat.S_IFREG
        if not target.name or stat.S_ISDIR(mode):
            raise UsageError(f"cannot write {target}: Is a directory", hint=ANOTHER)
        if not stat.S_ISREG(mode) and not is_stream(target):
            raise UsageError(f"cannot write {target}: it is a device or a socket", hint=ANOTHER)
        if stat.S_ISREG(mode) and any(map(is_sqlite, (target, *_owners(target)))):
            raise UsageError(f"{target} is a database, or belongs to one, and would be overwritten", hint=ANOTHER)


@contextmanager
def write_errors(target: Path) -> Iterator[None]:
    """Turn errors of the system into errors for people; a reader of a pipe that has gone is none."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        cause = "nobody reads this pipe" if error.errno == errno.ENXIO else error.strerror or str(error)
        raise UsageError(f"cannot write {target}: {cause}", hint=ANOTHER) from None


def is_sqlite(file: Path) -> bool:
    """Whether a file begins as SQLite databases do; False where there is no file.

    Not for a database that this process has open: closing the file here would drop the locks that SQLite holds on it.
    """
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return opened.read(len(SQLITE)) == SQLITE


def is_stream(target: Path) -> bool:
    """Whether a name stands for a pipe, standard output or the like, which is written into and not replaced."""
    place = Path(os.path.realpath(target.parent), target.name)  # /dev/fd is a link into /proc
    if str(place) in STREAMS or (place.parts[1:2] == ("proc",) and place.parent.name == "fd"):
        return True
    try:
        return stat.S_ISFIFO(target.stat().st_mode)
    except OSError:
        return False


def may(file: Path, how: int) -> bool:
    """Whether this process may read or write a file: ``how`` is `os.R_OK` or `os.W_OK`."""
    return os.access(file, how, effective_ids=EFFECTIVE)


def make_private(file: Path) -> None:
    """Make an empty file that only its owner can read; one that is there is left as it is."""
    try:
        # Through links: one that leads nowhere would be followed later, and the file get other permissions.
        made = os.open(os.path.realpath(file), os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
    except FileExistsError:
        return
    os.fchmod(made, FILE_MODE)  # whatever the umask
    os.close(made)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it that only their owner can enter; those that are there are left as they are."""
    for each in reversed([folder, *folder.parents]):
        if not each.is_dir():
            each.mkdir(FOLDER_MODE, exist_ok=True)
            each.chmod(FOLDER_MODE)


def _mode_of(target: Path) -> int:
    """Return the permissions of the file that is replaced; those of a new file where there is none, or only a link."""
    try:
        found = target.lstat().st_mode
    except FileNotFoundError:
        return FILE_MODE
    return stat.S_IMODE(found) if stat.S_ISREG(found) else FILE_MODE


def _beside(file: Path) -> list[Path]:
    return [file.with_name(file.name + ending) for ending in COMPANIONS] if file.name else []


def _owners(target: Path) -> list[Path]:
    """Return the databases that a file would belong to by its name."""
    names = [target.name.removesuffix(ending) for ending in COMPANIONS if target.name.endswith(ending)]
    return [target.with_name(name) for name in names if name]


def _is_same(one: Path, other: Path) -> bool:
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    try:
        return one.samefile(other)
    except OSError:
        return False
