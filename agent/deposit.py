"""Copies of libraries and programs for containers, which never change once they are made.

An upgrade must not change a file that a running process has mapped, or that a container's hooks
will run at its end. So what containers mount and hooks run lies in

    <lib_dir>/<16 hex digits of its SHA-256>/NAME

and a new version gets a new folder. Old ones go when no container refers to them any more.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .errors import AliquotError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

LIBRARY: Final = 0o644
PROGRAM: Final = 0o755

_DIGITS: Final = 16
_FOLDER: Final = re.compile(rf"[0-9a-f]{{{_DIGITS}}}", re.ASCII)
_NEW: Final = ".new-"
_MOST_BYTES: Final = 64 << 20
# What a container's files may have, and be searched for references.
_MOST_TEXT_BYTES: Final = 16 << 20


class Deposit:
    """The copies in ``lib_dir``."""

    def __init__(self, lib_dir: Path) -> None:
        """Nothing is made before something is put there."""
        self._dir = lib_dir
        # By what the source was when it was copied: asked for again, it is not read again.
        self._known: dict[tuple[str, int, int, int, int], Path] = {}

    def put(self, source: Path, mode: int = LIBRARY) -> Path:
        """Return the copy of ``source``, which is made if there is none.

        Its content and mode are checked when this process meets it first. Raises AliquotError.
        """
        try:
            known = _mark(source.stat(), source, mode)
            if known in self._known:
                return self._known[known]
            with open(source, "rb") as file:  # noqa: PTH123 - read within a bound
                known = _mark(os.fstat(file.fileno()), source, mode)
                content = file.read(_MOST_BYTES + 1)
            if len(content) > _MOST_BYTES:
                raise AliquotError(
                    f"{source} has more than {_MOST_BYTES >> 20} MiB: see what it is"
                )
            folder = self._dir / hashlib.sha256(content).hexdigest()[:_DIGITS]
            _make_folder(self._dir)
            _make_folder(folder)
            copy = folder / source.name
            if not os.path.lexists(copy):
                _write(folder, source.name, content, mode)
            _check(copy, content, mode)
        except OSError as error:
            where = error.filename or self._dir
            raise AliquotError(
                f"{source} cannot be laid out for containers: {where}: {error.strerror}: "
                "see lib_dir in the configuration"
            ) from error
        self._known[known] = copy
        return copy

    def collect(self, referring: Iterable[Path]) -> tuple[str, ...]:
        """Remove old copies, and what a crash left of new ones; returns what was removed.

        Kept are the folders that a file in ``referring`` names, those that this process put
        something into, and the newest of each name. If a file that may name one cannot be read,
        all are kept. Raises OSError.
        """
        if not self._dir.is_dir():
            return ()
        folders = [entry for entry in self._dir.iterdir() if _FOLDER.fullmatch(entry.name)]
        for folder in folders:
            for half in folder.glob(f"{_NEW}*"):
                half.unlink()
        kept = self._referred(referring)
        if kept is None:
            return ()
        kept |= {copy.parent.name for copy in self._known.values()}
        kept |= _newest(folders)
        gone = [folder for folder in folders if folder.name not in kept]
        for folder in gone:
            shutil.rmtree(folder)
        return tuple(folder.name for folder in gone)

    def _referred(self, files: Iterable[Path]) -> set[str] | None:
        pattern = re.compile(
            re.escape(os.fsencode(self._dir)) + rb"/([0-9a-f]{%d})(?![0-9a-f])" % _DIGITS
        )
        found: set[str] = set()
        for path in files:
            try:
                with open(path, "rb") as file:  # noqa: PTH123 - read within a bound
                    content = file.read(_MOST_TEXT_BYTES + 1)
            except FileNotFoundError:
                continue
            except OSError:
                return None
            if len(content) > _MOST_TEXT_BYTES:
                return None
            # Other writers of JSON escape slashes.
            found |= {os.fsdecode(name) for name in pattern.findall(content.replace(b"\\/", b"/"))}
        return found


def _mark(status: os.stat_result, source: Path, mode: int) -> tuple[str, int, int, int, int]:
    return str(source), status.st_ino, status.st_size, status.st_mtime_ns, mode


def _make_folder(folder: Path) -> None:
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise AliquotError(
            f"{folder} belongs to somebody else, or others may write there: "
            "give it to root with mode 0755, or name another lib_dir"
        )
    # Whatever the umask: containers of any user map what is in it.
    folder.chmod(0o755)


def _write(folder: Path, name: str, content: bytes, mode: int) -> None:
    fresh = folder / f"{_NEW}{secrets.token_hex(4)}"
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:  # noqa: PTH123 - an open file
            file.write(content)
            file.flush()
            os.fchmod(fd, mode)
            os.fsync(fd)
        with contextlib.suppress(FileExistsError):
            # Unlike a rename it never replaces one that is there.
            os.link(fresh, folder / name)
    finally:
        fresh.unlink()
    parent = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def _check(copy: Path, content: bytes, mode: int) -> None:
    fd = os.open(copy, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:  # noqa: PTH123 - an open file
        status = os.fstat(fd)
        right = (
            stat.S_ISREG(status.st_mode)
            and stat.S_IMODE(status.st_mode) == mode
            and status.st_uid == os.geteuid()
            and status.st_size == len(content)
            and file.read() == content
        )
    if not right:
        # Somebody may have it mapped, so that it is not ours to mend.
        raise AliquotError(
            f"{copy} is not what was put there: see who changed it, and remove {copy.parent} "
            "once no container uses it"
        )


def _newest(folders: Collection[Path]) -> set[str]:
    """Return the folders that have the newest copy of some name."""
    newest: dict[str, tuple[int, str]] = {}
    for folder in folders:
        for file in folder.iterdir():
            one = (file.lstat().st_mtime_ns, folder.name)
            newest[file.name] = max(newest.get(file.name, one), one)
    return {name for _, name in newest.values()}
