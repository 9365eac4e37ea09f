"""Registers a runtime handler in containerd's configuration, and takes it out again.

The handler is a block of text at the end of the file that has the CRI plugin's table: TOML lets a
table be defined anywhere, so that not a byte of what somebody wrote is changed, and the block can
be cut out again. Before a file is replaced, containerd itself reads the new one (`config dump`):
the handler must be there, and everything else must be as it was.

containerd 1.x (schema 2) replaces where one would think that it adds:

- An imported file replaces the CRI plugin's whole table. So the block goes into the last file of
  the imports that has such a table, and a drop-in of our own, which would freeze all of the table
  as it was that day, is not made.
- A table of runtimes replaces the built-in one, with runc in it. So the block also has each runtime
  that is there but not in the file.

containerd 2.x (schema 3; it reads schema 2 as well) merges both.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import tomlkit

from .containerd_config import (
    CRI,
    Containerd,
    ContainerdError,
    Table,
    cri_of,
    decode,
    imported_files,
    meaning,
    parse,
    read,
    runtimes_of,
)

RUNTIME_TYPE: Final = "io.containerd.runc.v2"
ANNOTATIONS: Final = ("aliquot.dev/*",)
_DISABLED: Final = ("cri", *CRI.values())
_BEGIN: Final = "# -- Written by `aliquot install containerd`; its --remove takes this out. --\n"
_HANDLER: Final = "# The handler:\n"
_END: Final = "# -- End of what `aliquot install containerd` wrote. --\n"


@dataclass(frozen=True, slots=True)
class Handler:
    """A runtime handler: the name that RuntimeClasses refer to, and the program that it runs."""

    name: str
    binary: str


@dataclass(frozen=True, slots=True)
class Edit:
    """What is to be done to one file: ``before`` and ``after`` are its content, None no file.

    ``original`` is what it was before the handler, None also where nobody knows. ``notes`` are for
    people, one line each.
    """

    file: Path
    before: bytes | None
    after: bytes | None
    original: bytes | None
    notes: tuple[str, ...] = ()


def install(config: Path, handler: Handler, program: Containerd | None) -> Edit:
    """Return what registers ``handler`` in the configuration ``config``.

    Without ``program`` the result is only known to be TOML. Raises ContainerdError.
    """
    main = read(config)
    if main is None and program is None:
        raise ContainerdError(
            f"{config}: there is no such file, and without containerd nobody knows its schema: "
            "write one with the line `version = 2` for containerd 1.x, `version = 3` for 2.x"
        )
    meant = None if program is None else meaning(config, main, program)
    file = _file_of_the_table(config, main, meant)
    before = main if file == config else read(file)
    original = None if before is None else cut_out(before)
    if original is not None and original != before and program is not None:
        meant = meaning(config, main, program, {file: original})
    text, schema = _with_version(file, original, meant, imported=file != config)
    if meant is not None:
        _check_usable(file, handler, meant)
    added, notes = _added(file, handler, parse(file, text), schema, meant, program)
    block = _block(added, schema, handler.name)
    if text and not text.endswith("\n"):
        text += "\n"
    after = f"{text}\n{block}" if text else block
    _check_text(file, text, after, added, schema)
    if program is not None and meant is not None:
        _check_meaning(config, main, program, {file: after.encode()}, meant, handler, schema)
    return Edit(file, before, after.encode(), original, tuple(notes))


def cut_edit(config: Path, file: Path, name: str, program: Containerd | None) -> Edit | None:
    """Return what takes the handler's block out of a file that has changed since.

    None when the file has no block that is whole. Raises ContainerdError.
    """
    before = read(file)
    if before is None or cut_out(before) == before:
        return None
    if program is None:
        return Edit(file, before, cut_out(before), None)
    main = read(config)
    meant = meaning(config, main, program)
    if cri_of(meant).get("containerd", {}).get("default_runtime_name") == name:
        raise ContainerdError(
            f'{file}: default_runtime_name is "{name}", which is to be taken out: '
            "name another runtime there first"
        )
    for keep_runtimes in (False, True):
        # Runtimes that were written with the handler stay when others have joined them.
        after = cut_out(before, keep_runtimes=keep_runtimes)
        if _without(meaning(config, main, program, {file: after}), name) == _without(meant, name):
            notes = (
                ("the block's other runtimes stay: more depends on them",) if keep_runtimes else ()
            )
            return Edit(file, before, after, None, notes)
    raise ContainerdError(
        f"{file}: without the handler {name} containerd would take something else differently: "
        "take out by hand what was added to its block"
    )


def cut_out(content: bytes, *, keep_runtimes: bool = False) -> bytes:
    """Return a file's content without our block, as it is when it has none that is whole."""
    start, handler, end = (content.find(mark.encode()) for mark in (_BEGIN, _HANDLER, _END))
    if not 0 <= start < handler < end or content.count(_BEGIN.encode()) != 1:
        return content
    rest = content[end + len(_END.encode()) :]
    if keep_runtimes:
        return content[:start] + content[start + len(_BEGIN.encode()) : handler] + rest
    # The empty line before it is ours, too.
    head = content[:start]
    return (head[:-1] if head.endswith(b"\n\n") else head) + rest


def has_handler(config: Path, name: str, program: Containerd | None) -> bool:
    """Say whether a configuration has a handler of that name. Raises ContainerdError."""
    content = read(config)
    if content is None:
        return False
    table = parse(config, decode(config, content)) if program is None else program.dump(config)
    return any(name in runtimes_of(table, schema) for schema in CRI)


# -- What is there -------------------------------------------------------------------------------


def _file_of_the_table(config: Path, main: bytes | None, meant: Table | None) -> Path:
    """Return the file whose CRI table counts. ``main`` is what the configuration holds."""
    if main is None or meant is None or meant.get("version", 2) >= 3:
        return config
    imported = imported_files(config, main)
    told = {os.path.realpath(name) for name in meant.get("imports", ())}
    if told and told != {os.path.realpath(file) for file in (config, *imported)}:
        raise ContainerdError(
            f"{config}: which of its imports containerd reads last is not clear "
            f"({len(told) - 1} are read): name each by its whole path"
        )
    found = config
    for file in imported:
        plugins = parse(file, decode(file, read(file) or b"")).get("plugins")
        if isinstance(plugins, dict) and CRI[2] in plugins:
            found = file.resolve()
    return found


def _with_version(
    file: Path, content: bytes | None, meant: Table | None, *, imported: bool
) -> tuple[str, int]:
    """Return a file's text, with a schema's number where it lacks one, and that number."""
    if content is None:
        assert meant is not None
        schema = min(meant["version"], 3)
        return f"version = {schema}\n", schema
    text = decode(file, content)
    table = parse(file, text)
    schema = table.get("version", 1)
    if isinstance(schema, bool) or not isinstance(schema, int) or schema < 1:
        raise ContainerdError(
            f"{file}: version is {schema!r}: write 2 or 3, see `containerd config`"
        )
    if schema > 1:
        return text, min(schema, 3)
    if imported and "version" not in table:
        # It is read as of the schema of what imports it.
        return text, 2
    named = [key for key in ("plugins", "disabled_plugins", "required_plugins") if table.get(key)]
    if named:
        raise ContainerdError(
            f"{file}: is of schema 1, where plugins have other names ({named[0]}): "
            "write it anew for schema 2, or let `containerd config migrate` of containerd 1.7 do so"
        )
    # All else is the same in schema 2; the line must come before the first table.
    if "version" in table:
        raise ContainerdError(f"{file}: has version = 1: write version = 2, nothing else differs")
    return f"version = 2\n{text}", 2


def _check_usable(file: Path, handler: Handler, meant: Table) -> None:
    for plugin in meant.get("disabled_plugins", ()):
        if plugin in _DISABLED:
            raise ContainerdError(
                f'{file}: disabled_plugins has "{plugin}", without which there are no handlers: '
                "take it out, or use `ctr run --runc-binary` alone"
            )
    if handler.name in runtimes_of(meant, meant.get("version", 2)):
        raise ContainerdError(
            f"{file}: has a runtime {handler.name} already that was not written by this command: "
            "take it out, or choose another --runtime-name"
        )


# -- What is added -------------------------------------------------------------------------------


def _added(
    file: Path,
    handler: Handler,
    table: Table,
    schema: int,
    meant: Table | None,
    program: Containerd | None,
) -> tuple[dict[str, Any], list[str]]:
    """Return the runtimes to add, by name, the handler last; and what people should know."""
    notes: list[str] = []
    own = runtimes_of(table, schema)
    if meant is None or program is None:
        notes.append("containerd was not asked whether it takes the file")
        if schema == 2 and table.get("imports"):
            notes.append("on containerd 1.x an imported file can replace the handler with its own")
        there, usual = own, {}
    else:
        there = runtimes_of(meant, meant.get("version", 2))
        built_in = program.default()
        usual = runtimes_of(built_in, built_in.get("version", 2)).get("runc", {})
    if handler.name in own:
        raise ContainerdError(
            f"{file}: has a runtime {handler.name} already that was not written by this command: "
            "take it out, or choose another --runtime-name"
        )
    added: dict[str, Any] = {}
    if schema == 2 and (meant is None or meant.get("version") == 2):
        added = {name: _said(value) for name, value in there.items() if name not in own}
        if not there:
            added = {"runc": {"runtime_type": RUNTIME_TYPE}}
    name, base = _base(there, meant)
    mine = _differing(base, usual) if base.get("runtime_type") == RUNTIME_TYPE else {}
    options = {key: value for key, value in mine.get("options", {}).items() if key != "BinaryName"}
    behind = base.get("options", {}).get("BinaryName")
    if behind:
        notes.append(
            f"runtime {name} runs {behind}: write that path into /etc/aliquot/oci-runtime, "
            "so that containers under Aliquot are started by it too"
        )
    added[handler.name] = {
        **{key: value for key, value in mine.items() if key != "options"},
        "runtime_type": RUNTIME_TYPE,
        **{
            key: [*ANNOTATIONS, *(one for one in mine.get(key, ()) if one not in ANNOTATIONS)]
            for key in ("pod_annotations", "container_annotations")
        },
        "options": {**options, "BinaryName": handler.binary},
    }
    return added, notes


def _base(there: Table, meant: Table | None) -> tuple[str, Table]:
    """Return the runtime that the handler is to be like: runc, else the default one."""
    name = "runc"
    if name not in there and meant is not None:
        name = cri_of(meant).get("containerd", {}).get("default_runtime_name", name)
    value = there.get(name, {})
    return name, value if isinstance(value, dict) else {}


def _said(value: Table) -> dict[str, Any]:
    """Return a table without what is empty, which is the same as not written."""
    return {
        key: _said(one) if isinstance(one, dict) else one
        for key, one in value.items()
        if (_said(one) if isinstance(one, dict) else one)
    }


def _differing(value: Table, usual: Table) -> dict[str, Any]:
    """Return what a runtime says that is neither empty nor what runc has anyway."""
    found: dict[str, Any] = {}
    for key, one in _said(value).items():
        if isinstance(one, dict):
            inner = _differing(one, usual.get(key, {}))
            if inner:
                found[key] = inner
        elif one != usual.get(key):
            found[key] = one
    return found


def _block(added: Table, schema: int, name: str) -> str:
    """Return the text of the block that adds these runtimes."""
    texts: dict[bool, str] = {True: "", False: ""}
    for runtime, value in added.items():
        path = ("plugins", CRI[schema], "containerd", "runtimes", runtime)
        texts[runtime == name] += _text(path, value)
    return f"{_BEGIN}{texts[False]}{_HANDLER}{texts[True].rstrip()}\n{_END}"


def _text(path: tuple[str, ...], value: Table) -> str:
    """Return a table and those in it as text, each under its whole name."""
    flat = {key: one for key, one in value.items() if not isinstance(one, dict)}
    text = f"[{tomlkit.key(path).as_string()}]\n{tomlkit.dumps(flat)}\n"
    inner = [_text((*path, key), one) for key, one in value.items() if isinstance(one, dict)]
    return text + "".join(inner)


# -- Whether it is right -------------------------------------------------------------------------


def _check_text(file: Path, text: str, after: str, added: Table, schema: int) -> None:
    """Refuse a text in which the block does not add just what it should."""
    wanted = parse(file, text)
    try:
        got = parse(file, after)
        inner = wanted
        for key in ("plugins", CRI[schema], "containerd", "runtimes"):
            inner = inner.setdefault(key, {})
        inner.update(added)
    except (ContainerdError, AttributeError) as error:
        raise ContainerdError(
            f"{file}: has its runtimes in braces, where none can be added: write "
            f'them as tables, [plugins."{CRI[schema]}".containerd.runtimes.NAME]'
        ) from error
    if got != wanted:
        raise ContainerdError(f"{file}: cannot be added to: the result would mean something else")


def _check_meaning(
    config: Path,
    main: bytes | None,
    program: Containerd,
    changed: Mapping[Path, bytes],
    meant: Table,
    handler: Handler,
    schema: int,
) -> None:
    """Let containerd read the new configuration: the handler is there, and all else as it was."""
    got = meaning(config, main, program, changed)
    found = runtimes_of(got, got.get("version", 2)).get(handler.name)
    if not isinstance(found, dict) or (
        found.get("options", {}).get("BinaryName"),
        found.get("runtime_type"),
    ) != (handler.binary, RUNTIME_TYPE):
        raise ContainerdError(
            f"{config}: containerd {program.version()} does not see the handler {handler.name}: "
            "an imported file may replace it, or the file's version is too new for this containerd"
        )
    other = _difference(_without(meant, handler.name), _without(got, handler.name))
    if other:
        raise ContainerdError(
            f"{config}: with the handler {handler.name} containerd would take {other} differently: "
            f"{_hint(schema, got)}"
        )


def _hint(schema: int, meant: Table) -> str:
    if schema < meant.get("version", 2):
        # Containerd 2.1 leaves out some of schema 2 where it finds no runtimes.
        return "have `containerd config migrate` rewrite it in the newer schema first"
    return "this configuration cannot be added to"


def _without(meant: Table, name: str) -> dict[str, Any]:
    """Return what a configuration means apart from one handler."""
    rest = copy.deepcopy(dict(meant))
    # What is tried has other paths.
    rest.pop("imports", None)
    runtimes = runtimes_of(rest, rest.get("version", 2))
    for runtime in list(runtimes):
        # Empty options are told of the built-in runtime only, and mean the same as none.
        value = runtimes.pop(runtime)
        if runtime != name:
            runtimes[runtime] = _said(value)
    return rest


def _difference(before: Table, after: Table) -> str:
    """Return the name of a key in which two tables differ, empty when they are the same."""
    for key in sorted({*before, *after}):
        one, other = before.get(key), after.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            inner = _difference(one, other)
            if inner:
                return f"{key}.{inner}"
        elif one != other:
            return key
    return ""
