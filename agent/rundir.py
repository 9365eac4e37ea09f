"""The run directory of a slice: where it lies, who may touch it, and when it goes.

    <base>/.lock                  held for moments: making and collecting exclude each other
    <base>/run-<name>/
        maker                     locked by the command that made the slice
        lock                      locked by that command, and by its program and whatever that
                                  starts, through one inherited descriptor
        meta.json                 what the slice is, for people
        lib/                      what a program is to find instead of the driver's folder
            libcuda.so.1, …       symbolic links to the installed shim; of other vendors
                                  libruntime.so or libcndrv.so, here and below
            libnvidia-ml.so.1, …  the same for the management library, where there is one
            .aliquot/grant, usage the region
            .aliquot/libcuda-driver.so.1, libnvidia-ml-driver.so.1
        lib.1/ …                  the same for further folders with a driver, the region hard-linked

A slice has ended when nobody holds ``lock`` and no slot of ``usage``: both are the kernel's locks,
which a process loses however it dies. Whoever notices removes the directory.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aliquot.shim import region

from .errors import AliquotError, BadRequestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from .drivers import DriverFolder
    from .makes import Make

REGION_FOLDER: Final = ".aliquot"
META: Final = "meta.json"
LOCK: Final = "lock"
MAKER_LOCK: Final = "maker"

_PREFIX: Final = "run-"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", re.ASCII)
_MOST_META_BYTES: Final = 1 << 20
# Programs open files from 3 upwards and shells save theirs from 10: stay out of their way.
_LOCK_DESCRIPTOR: Final = 190


@dataclass(frozen=True, slots=True)
class Shims:
    """The installed shims of a make: of the driver, and of the management library if it has one."""

    make: Make
    driver: Path
    management: Path | None = None


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """The run directory of a slice that this process makes, and our hold on its two locks."""

    base: Path
    path: Path
    name: str
    lock_fd: int
    maker_fd: int

    @property
    def region_folder(self) -> Path:
        """Where ``grant`` and ``usage`` lie."""
        return self.path / "lib" / REGION_FOLDER


def base_folder(environment: Mapping[str, str]) -> Path:
    """Return the folder that holds the run directories of this user."""
    own = environment.get("ALIQUOT_RUNTIME_DIR")
    if own:
        if not Path(own).is_absolute():
            raise BadRequestError(f"ALIQUOT_RUNTIME_DIR: '{own}' is not an absolute path")
        return Path(own)
    if os.geteuid() == 0:
        return Path("/run/aliquot")
    session = environment.get("XDG_RUNTIME_DIR")
    if session and Path(session).is_absolute():
        return Path(session) / "aliquot"
    return _fallback_base(os.geteuid())


def readable_bases(environment: Mapping[str, str]) -> list[Path]:
    """Return every folder in which this user may find slices: root sees everybody's."""
    bases = [base_folder(environment)]
    if not environment.get("ALIQUOT_RUNTIME_DIR"):
        bases += [Path("/run/aliquot"), _fallback_base(os.geteuid())]
        if os.geteuid() == 0:
            bases += sorted(Path("/run/user").glob("*/aliquot"))
            bases += sorted(_fallback_base(0).parent.glob("aliquot-*"))
    return [base for base in dict.fromkeys(bases) if base.is_dir()]


def _fallback_base(uid: int) -> Path:
    return Path(f"/tmp/aliquot-{uid}")  # noqa: S108 - its owner and mode are checked


def create(base: Path, name: str | None) -> RunDirectory:
    """Make an empty run directory, holding its lock.

    Raises BadRequestError for a name that is no name, AliquotError when a slice of that name runs
    or the base is not ours alone.
    """
    if name is not None:
        check_name(name)
    name = name or f"{os.getpid()}-{secrets.token_hex(3)}"
    path = base / f"{_PREFIX}{name}"
    with _base_lock(base):
        _collect_locked(base)
        try:
            path.mkdir(mode=0o700)
            lock_fd, maker_fd = (_make_lock(path / file) for file in (LOCK, MAKER_LOCK))
        except FileExistsError as error:
            raise AliquotError(
                f"a slice named '{name}' is still in use: choose another --name, "
                "or end its processes (see aliquot ps)"
            ) from error
        except OSError as error:
            shutil.rmtree(path, ignore_errors=True)
            raise AliquotError(f"{path} cannot be made: {error.strerror}") from error
    return RunDirectory(base, path, name, lock_fd, maker_fd)


def check_name(name: str) -> None:
    """Raise BadRequestError when ``name`` cannot be a slice's."""
    if not _NAME.fullmatch(name):
        raise BadRequestError(
            f"--name: '{name}' is not a name: letters, digits, '_', '.' and '-', at most 63"
        )


def lay_out(
    run: RunDirectory,
    devices: Sequence[region.RegionDevice],
    shims: Shims,
    folders: Sequence[DriverFolder],
    *,
    mounted: bool,
) -> None:
    """Fill the run directory for ``folders``, the first of which is the program's driver.

    ``mounted``: the real driver will be mounted where otherwise a link leads to it. Links are used
    throughout, since /run is often mounted noexec. Raises AliquotError.
    """
    try:
        for number, folder in enumerate(folders):
            lib = lib_folder(run, number)
            own = lib / REGION_FOLDER
            own.mkdir(parents=True)
            for made in (lib, own):
                # The merged folder has the mode of this one, whatever the umask.
                made.chmod(0o755)
            _stand_in(lib, {*folder.names, *shims.make.names}, shims.driver)
            _lead_to(own / shims.make.link, folder.driver, mounted=mounted)
            if folder.management and shims.make.management and shims.management:
                _stand_in(lib, folder.management.names, shims.management)
                link = own / shims.make.management.link
                _lead_to(link, folder.management.file, mounted=mounted)
            if number:
                for file in ("grant", "usage"):
                    os.link(run.region_folder / file, own / file)
            else:
                with _opened(own) as dirfd:
                    region.create(dirfd, run.name, devices)
        if not mounted and os.geteuid() == 0:
            # Programs that give up root must still find the shim by its path.
            run.path.chmod(0o711)
    except OSError as error:
        raise AliquotError(f"{run.path} cannot be filled: {error.strerror}") from error


def _stand_in(lib: Path, names: Iterable[str], shim: Path) -> None:
    for name in sorted(names):
        (lib / name).symlink_to(shim)


def _lead_to(link: Path, library: str, *, mounted: bool) -> None:
    if mounted:
        link.touch()
    else:
        link.symlink_to(library)


def clear(run: RunDirectory) -> None:
    """Take back what lay_out made."""
    for path in run.path.glob("lib*"):
        shutil.rmtree(path, ignore_errors=True)


def lib_folder(run: RunDirectory, number: int) -> Path:
    """Return the folder that stands for driver folder ``number`` of lay_out."""
    return run.path / (f"lib.{number}" if number else "lib")


def write_meta(run: RunDirectory, meta: Mapping[str, Any]) -> None:
    """Write what the slice is. Raises AliquotError."""
    temporary = run.path / f".{META}.new"
    try:
        temporary.write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
        temporary.replace(run.path / META)
    except OSError as error:
        raise AliquotError(f"{run.path / META} cannot be written: {error.strerror}") from error


def inheritable_lock(run: RunDirectory) -> int:
    """Return a descriptor of the lock that an executed program and its children keep."""
    try:
        fd = fcntl.fcntl(run.lock_fd, fcntl.F_DUPFD, _LOCK_DESCRIPTOR)
    except OSError:
        # Fewer descriptors than that are allowed.
        fd = fcntl.fcntl(run.lock_fd, fcntl.F_DUPFD, 3)
    os.set_inheritable(fd, True)
    return fd


def remove_if_ended(run: RunDirectory) -> bool:
    """Give up our hold on the lock and remove the directory unless somebody is left."""
    os.close(run.lock_fd)
    os.close(run.maker_fd)
    with contextlib.suppress(AliquotError), _base_lock(run.base):
        return _remove_ended(run.path)
    return False


def remove_when_ended(run: RunDirectory) -> None:
    """Wait until nobody is left, without polling, and remove the directory."""
    with contextlib.suppress(OSError, AliquotError):
        with open(run.path / LOCK, "rb") as lock:  # noqa: PTH123 - as the others here
            fcntl.flock(lock, fcntl.LOCK_EX)
        with open(run.region_folder / "usage", "rb") as usage:  # noqa: PTH123
            region.wait_for_end(usage.fileno())
        with _base_lock(run.base):
            _remove_ended(run.path)


def collect(base: Path) -> None:
    """Remove the directories of slices that have ended; leave a base that is not ours alone."""
    with contextlib.suppress(AliquotError), _base_lock(base):
        _collect_locked(base)


def runs(base: Path) -> list[Path]:
    """Return the run directories in ``base``, by name. Raises OSError."""
    return sorted(path for path in base.iterdir() if path.name.startswith(_PREFIX))


def name_of(path: Path) -> str:
    """Return the slice's name that a run directory is called by."""
    return path.name[len(_PREFIX) :]


def open_inside(dirfd: int, *parts: str) -> int:
    """Open a regular file below the folder ``dirfd`` for reading, following no link.

    The folder may be another user's. Raises OSError.
    """
    folder = os.dup(dirfd)
    try:
        for part in parts[:-1]:
            inner = os.open(
                part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder
            )
            os.close(folder)
            folder = inner
        fd = os.open(
            parts[-1],
            os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC,
            dir_fd=folder,
        )
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file")
    return fd


def read_meta(dirfd: int) -> dict[str, Any]:
    """Read ``meta.json`` of an open run directory; empty when it is missing or broken."""
    try:
        fd = open_inside(dirfd, META)
        with open(fd, "rb") as file:  # noqa: PTH123 - an open file
            meta = json.loads(file.read(_MOST_META_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return meta if isinstance(meta, dict) else {}


def lock_is_held(dirfd: int, name: str) -> bool:
    """Say whether somebody holds the lock ``name`` of an open run directory."""
    try:
        fd = open_inside(dirfd, name)
    except OSError:
        return False
    try:
        return not _try_lock(fd)
    finally:
        os.close(fd)


def _make_lock(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _base_lock(base: Path) -> Iterator[None]:
    """Make the base where it is missing, check that it is ours alone, and hold its lock."""
    try:
        # Only root's may be passed through by others: see lay_out.
        mode = 0o711 if os.geteuid() == 0 else 0o700
        with contextlib.suppress(FileExistsError):
            base.parent.mkdir(parents=True, exist_ok=True)
            base.mkdir(mode=mode)
        with _opened(base) as dirfd:
            status = os.fstat(dirfd)
            if status.st_uid != os.geteuid() or status.st_mode & 0o022:
                raise AliquotError(
                    f"{base} belongs to somebody else or others may write there: "
                    "name a folder of your own in ALIQUOT_RUNTIME_DIR"
                )
            fd = os.open(
                ".lock",
                os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC,
                0o600,
                dir_fd=dirfd,
            )
    except OSError as error:
        raise AliquotError(
            f"{base} cannot be used for slices: {error.strerror}: "
            "name a folder of your own in ALIQUOT_RUNTIME_DIR"
        ) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _collect_locked(base: Path) -> None:
    with contextlib.suppress(OSError):
        for path in runs(base):
            _remove_ended(path)


def _remove_ended(path: Path) -> bool:
    """Remove a run directory of ours that nobody holds. The base's lock is held."""
    try:
        with _opened(path) as dirfd:
            if os.fstat(dirfd).st_uid != os.geteuid() or not has_ended(dirfd):
                return False
    except OSError:
        return False
    shutil.rmtree(path, ignore_errors=True)
    return not path.exists()


def has_ended(dirfd: int) -> bool:
    """Say whether nobody holds the lock or a slot of an open run directory. Raises OSError."""
    if lock_is_held(dirfd, LOCK):
        return False
    try:
        fd = open_inside(dirfd, "lib", REGION_FOLDER, "usage")
    except OSError as error:
        # Without a regular file in its place there is no slot to hold.
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL):
            return True
        raise
    try:
        return not region.any_alive(fd)
    finally:
        os.close(fd)
