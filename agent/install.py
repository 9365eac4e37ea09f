"""``aliquot install``: registers the runtime handler, and takes it back without a trace.

Beside containerd's configuration FILE lie, while the handler is registered,

    FILE.aliquot            what was done: which file was changed, to what (JSON)
    FILE.before-aliquot     that file as it was, if it was there
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import aliquot.shim
import click
from aliquot.hooks import containerd
from aliquot.hooks.containerd import Edit, Handler
from aliquot.hooks.containerd_config import Containerd, ContainerdError, read

from .errors import AliquotError, BadRequestError

_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_RESTART: Final = "systemctl restart containerd"
_RUNTIME: Final = "aliquot-runtime"
_FORMAT: Final = 1

_HELP = """Register the runtime handler in containerd's configuration.

Pods whose RuntimeClass has the handler's name are then started by aliquot-runtime. Before the file
is replaced, containerd reads the new one, and the handler must be the only thing that differs.
containerd must be restarted afterwards; containers that run go on.

--remove puts the file back as it was, byte for byte. If it was changed since, just the handler is
taken out."""


@dataclass(frozen=True, slots=True)
class _Record:
    """What was done. ``sha256`` is of the file as we left it; ``existed``: it was there before."""

    runtime: str
    file: str
    sha256: str
    existed: bool
    made_folder: bool
    format: int = _FORMAT


@click.group("install")
def install_command() -> None:
    """Register Aliquot with a container runtime."""


@install_command.command("containerd", help=_HELP)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    default=Path("/etc/containerd/config.toml"),
    show_default=True,
    help="containerd's configuration; it is made when it is missing.",
)
@click.option(
    "--runtime-name",
    default="aliquot",
    show_default=True,
    help="The handler's name in RuntimeClass.",
)
@click.option(
    "--binary", type=click.Path(path_type=Path), help="aliquot-runtime's path, if another."
)
@click.option("--containerd", "program", default="containerd", show_default=True,
              help="The containerd program that checks the configuration.")  # fmt: skip
@click.option("--remove", is_flag=True, help="Take the handler out again.")
@click.option("--dry-run", is_flag=True, help="Check everything and show what would change.")
@click.option("--no-validate", is_flag=True, help="Do not ask containerd; it need not be there.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def containerd_command(
    config: Path,
    runtime_name: str,
    binary: Path | None,
    program: str,
    remove: bool,
    dry_run: bool,
    no_validate: bool,
    as_json: bool,
) -> None:
    """Change the configuration, or say why not; nothing is changed by halves."""
    if not _NAME.fullmatch(runtime_name):
        raise BadRequestError(
            f"--runtime-name: '{runtime_name}' cannot be a handler's name: lower-case letters, "
            "digits and '-', at most 63"
        )
    asked = None if no_validate else Containerd(_found(program))
    # A link stays one: what it leads to is changed.
    config = Path(os.path.realpath(config))
    try:
        if remove:
            edit, record = _removal(config, runtime_name, asked)
        else:
            handler = Handler(runtime_name, str(_binary(binary)))
            edit, record = _installation(config, handler, asked)
        changed = edit is not None and edit.before != edit.after
        if edit is not None and not dry_run:
            _apply(config, edit, record)
    except ContainerdError as error:
        raise AliquotError(str(error)) from error
    if as_json:
        _print_json(config, runtime_name, edit, asked, changed=changed, dry_run=dry_run)
    else:
        _print(config, runtime_name, edit, changed=changed, dry_run=dry_run, remove=remove)


# -- What is to be done --------------------------------------------------------------------------


def _installation(
    config: Path, handler: Handler, program: Containerd | None
) -> tuple[Edit, _Record | None]:
    """Return the change and what to note of it. Raises ContainerdError, AliquotError."""
    record = _read_record(config)
    if record is not None and record.runtime != handler.name:
        raise AliquotError(
            f"{config}: has the handler {record.runtime} of this command already: "
            f"take it out first, with --runtime-name {record.runtime} --remove"
        )
    edit = containerd.install(config, handler, program)
    existed = edit.original is not None
    if record is not None and record.file == str(edit.file) and _is_ours(edit.before, record):
        # Since it was first changed only we have changed it: what was there first is kept.
        edit = Edit(edit.file, edit.before, edit.after, _kept(config, record), edit.notes)
        existed = record.existed
    assert edit.after is not None
    made = record.made_folder if record is not None else not config.parent.exists()
    return edit, _Record(handler.name, str(edit.file), _digest(edit.after), existed, made)


def _removal(
    config: Path, name: str, program: Containerd | None
) -> tuple[Edit | None, _Record | None]:
    """Return the change, None when there is nothing to do. Raises ContainerdError, AliquotError."""
    record = _read_record(config)
    if record is not None and record.runtime != name:
        raise AliquotError(
            f"{config}: the handler of this command is {record.runtime}: "
            f"give --runtime-name {record.runtime}"
        )
    file = config if record is None else Path(record.file)
    before = read(file)
    if record is not None:
        kept = _kept(config, record)
        if _is_ours(before, record) or before == kept:
            return Edit(file, before, kept, kept), None
    edit = containerd.cut_edit(config, file, name, program)
    if edit is not None:
        return edit, None
    if before is not None and containerd.has_handler(config, name, program):
        where = f"; what was there before is in {_original(config)}" if record else ""
        raise AliquotError(
            f"{file}: the handler {name} is not as this command wrote it: "
            f"take it out by hand{where}"
        )
    # It was taken out by hand, or one was killed that had done so: what is noted goes, too.
    left = record is not None or _original(config).exists()
    return (Edit(file, before, before, before) if left else None), None


def _binary(path: Path | None) -> Path:
    """Return the absolute path of aliquot-runtime. Raises BadRequestError, AliquotError."""
    if path is None:
        found = shutil.which(_RUNTIME)
        shipped = Path(aliquot.shim.__file__).parent / "bin" / platform.machine() / _RUNTIME
        path = Path(found) if found else shipped
        if not path.is_file():
            raise AliquotError(
                f"{_RUNTIME} is neither on PATH nor at {shipped}: name it by --binary"
            )
    path = path.absolute()
    if not path.is_file() or not os.access(path, os.X_OK):
        raise BadRequestError(f"--binary: {path} is not a program that can be executed")
    return path


def _found(program: str) -> str:
    # It is run with another working directory.
    found = shutil.which(program)
    if found is None:
        raise AliquotError(
            f"there is no program {program}, which checks what is written: "
            "name it by --containerd, or give --no-validate"
        )
    return str(Path(found).absolute())


# -- Doing it ------------------------------------------------------------------------------------


def _apply(config: Path, edit: Edit, record: _Record | None) -> None:
    """Do it: with a record the original is kept first, without one it goes last.

    Whatever moment this ends at, the file is whole, and either as it was or as it is to be.
    """
    try:
        if record is not None and record.made_folder:
            config.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with _locked(config.parent):
            if read(edit.file) != edit.before:
                raise AliquotError(f"{edit.file}: was changed by somebody meanwhile: try again")
            if record is not None:
                _note(config, edit, record)
            if edit.after is None:
                edit.file.unlink(missing_ok=True)
            elif edit.after != edit.before:
                _replace(edit.file, edit.after, edit.file)
            if record is None:
                _forget(config, edit)
    except OSError as error:
        raise AliquotError(
            f"{error.filename or config.parent}: cannot be written: {error.strerror}: be root"
        ) from error


def _note(config: Path, edit: Edit, record: _Record) -> None:
    """Keep the file as it was, and what is done to it. Raises OSError."""
    if edit.original is None:
        _original(config).unlink(missing_ok=True)
    else:
        _replace(_original(config), edit.original, edit.file)
    _replace(_record(config), json.dumps(asdict(record)).encode() + b"\n", edit.file)


def _forget(config: Path, edit: Edit) -> None:
    """Take away what was noted, and a folder that was made for it. Raises OSError."""
    record = _read_record(config)
    # In this order: what was kept is of use as long as the record speaks of it.
    for path in (_record(config), _original(config)):
        _temporary(path).unlink(missing_ok=True)
        path.unlink(missing_ok=True)
    if record is not None and record.made_folder and edit.after is None:
        with contextlib.suppress(OSError):
            config.parent.rmdir()


def _replace(path: Path, content: bytes, like: Path) -> None:
    """Put ``content`` at ``path`` at once, with owner and mode of ``like``. Raises OSError."""
    temporary = _temporary(path)
    # Left by one that was killed; nobody else is at it, see _locked.
    temporary.unlink(missing_ok=True)
    try:
        status = like.stat()
    except FileNotFoundError:
        status = None
    fd = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )
    try:
        with open(fd, "wb") as file:  # noqa: PTH123 - an open file
            file.write(content)
            file.flush()
            if status is not None and (status.st_uid, status.st_gid) != (
                os.geteuid(),
                os.getegid(),
            ):
                os.fchown(fd, status.st_uid, status.st_gid)
            os.fchmod(fd, 0o644 if status is None else status.st_mode & 0o7777)
            os.fsync(fd)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.aliquot-new")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep others of this command out. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _record(config: Path) -> Path:
    return config.with_name(f"{config.name}.aliquot")


def _original(config: Path) -> Path:
    return config.with_name(f"{config.name}.before-aliquot")


def _read_record(config: Path) -> _Record | None:
    """Return what was noted, None when nothing was. Raises AliquotError, ContainerdError."""
    path = _record(config)
    content = read(path)
    if content is None:
        return None
    try:
        record = _Record(**json.loads(content))
        right = (
            record.format == _FORMAT
            and all(isinstance(text, str) for text in (record.runtime, record.file, record.sha256))
            and Path(record.file).is_absolute()
        )
    except (ValueError, TypeError, RecursionError):
        right = False
    if not right:
        raise AliquotError(
            f"{path}: is not what this command writes there: look at {config} yourself, "
            "take the handler out, and remove this file"
        )
    return record


def _kept(config: Path, record: _Record) -> bytes | None:
    """Return the file as it was. Raises AliquotError, ContainerdError."""
    if not record.existed:
        return None
    content = read(_original(config))
    if content is None:
        raise AliquotError(
            f"{_original(config)}: is missing, in which {record.file} was kept as it was: "
            f"take the handler out by hand, and remove {_record(config)}"
        )
    return content


def _is_ours(content: bytes | None, record: _Record) -> bool:
    return content is not None and _digest(content) == record.sha256


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# -- Saying it -----------------------------------------------------------------------------------


def _print(
    config: Path, name: str, edit: Edit | None, *, changed: bool, dry_run: bool, remove: bool
) -> None:
    if edit is None or not changed:
        state = "is not there" if remove else "is there already"
        click.echo(f"{config}: the handler {name} {state}: nothing to do")
        return
    for note in edit.notes:
        click.echo(f"aliquot: note: {note}", err=True)
    if dry_run:
        click.echo(_difference(edit), nl=False)
        return
    if remove:
        back = "is as it was" if edit.after == edit.original else "has it no more"
        click.echo(f"{edit.file}: the handler {name} is taken out, the file {back}.")
    else:
        click.echo(f"{edit.file}: has the handler {name} now.")
        if edit.original is not None:
            click.echo(f"{_original(config)}: the file as it was, for --remove.")
    click.echo(f"containerd reads it when it starts: {_RESTART} (containers that run go on)")


def _print_json(
    config: Path,
    name: str,
    edit: Edit | None,
    program: Containerd | None,
    *,
    changed: bool,
    dry_run: bool,
) -> None:
    shown: dict[str, Any] = {
        "config": str(config),
        "file": str(config if edit is None else edit.file),
        "runtime": name,
        "changed": changed and not dry_run,
        "would_change": changed,
        "containerd": None if program is None else program.version(),
        "notes": [] if edit is None else list(edit.notes),
        "difference": _difference(edit) if edit is not None and changed else "",
        "restart": _RESTART if changed else None,
    }
    click.echo(json.dumps(shown, indent=2))


def _difference(edit: Edit) -> str:
    """Return a unified diff of the change."""
    before, after = (
        [] if content is None else content.decode("utf-8", "replace").splitlines(keepends=True)
        for content in (edit.before, edit.after)
    )
    lines = difflib.unified_diff(before, after, str(edit.file), str(edit.file))
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline\n" for line in lines)
