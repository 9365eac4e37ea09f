"""What a container needs for NVIDIA's devices: from a CDI specification, else found on the node.

What is handed in is what the capabilities `compute` and `utility` of NVIDIA's container toolkit
name: CUDA and the management library. Libraries that reach a device past CUDA's driver (Vulkan,
EGL, OpenGL, OpenCL, VDPAU) are withheld unless the configuration says otherwise; what a
specification has beside them (video, OptiX, X) stays.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import aliquot.shim
from aliquot.hooks import cdi, elf
from aliquot.hooks.plan import BindMount, DeviceNode, Hook, Library, Needs, Substitute

from .. import drivers
from ..errors import AliquotError
from . import VendorError
from .registry import Settings

KIND: Final = "nvidia.com/gpu"
CUDA: Final = "libcuda.so.1"
NVML: Final = "libnvidia-ml.so.1"
# The private names under which the shims find the real libraries.
DRIVER_NAMES: Final = {CUDA: "libcuda-driver.so.1", NVML: "libnvidia-ml-driver.so.1"}

COMPUTE: Final = (
    "libcuda",
    "libcudadebugger",
    "libnvidia-gpucomp",
    "libnvidia-fatbinaryloader",
    "libnvidia-nvvm",
    "libnvidia-nvvm70",
    "libnvidia-pkcs11",
    "libnvidia-pkcs11-openssl3",
    "libnvidia-ptxjitcompiler",
    "libnvidia-tileiras",
)
UTILITY: Final = ("libnvidia-ml", "libnvidia-cfg", "libnvidia-nscq", "libnvidia-sandboxutils")
OPENCL: Final = ("libnvidia-opencl", "libnvidia-compiler")
PROGRAMS: Final = (
    "nvidia-smi",
    "nvidia-debugdump",
    "nvidia-cuda-mps-control",
    "nvidia-cuda-mps-server",
)
# Libraries by whose calls a program gets device memory without CUDA's driver library.
WITHHELD: Final = (
    "libEGL_nvidia*",
    "libGLESv1_CM_nvidia*",
    "libGLESv2_nvidia*",
    "libGLX_nvidia*",
    "libglxserver_nvidia*",
    "libnvidia-egl*",
    "libnvidia-fbc*",
    "libnvidia-glcore*",
    "libnvidia-glsi*",
    "libnvidia-glvkspirv*",
    "libnvidia-ifr*",
    "libnvidia-opencl*",
    "libnvidia-vksc-core*",
    "libnvidia-vulkan*",
    "libvdpau_nvidia*",
)
# Hooks and runtimes of NVIDIA that would put the driver in once more.
FOREIGN_HOOKS: Final = (
    "*/nvidia-container-runtime-hook",
    "*/nvidia-container-toolkit",
    "*/nvidia-container-cli",
    "*/nvidia-ctk",
    "*/nvidia-cdi-hook",
)

_WITHHELD_NAMES: Final = re.compile("|".join(map(fnmatch.translate, WITHHELD)))
# Files that only lead to what is withheld, by a part of their path in the container.
_WITHHELD_FILES: Final = re.compile(r"/(vulkan|glvnd|egl|OpenCL|gbm|xorg|vdpau|X11)/")
# Nodes of the kernel's graphics interfaces, by which memory is had without any library.
_WITHHELD_NODES: Final = re.compile(r"/dev/dri/.*|/dev/nvidia-modeset")
_LIBRARY: Final = re.compile(r"lib[^/]*\.so(\.[A-Za-z0-9_.+-]+)?", re.ASCII)
_VERSION: Final = re.compile(r"\.so\.([0-9]+\.[0-9]+(?:\.[0-9]+)*)$", re.ASCII)
_PROGRAM_PATH: Final = "/usr/bin:/bin:/usr/sbin:/sbin:/usr/local/bin:/opt/bin"
_SOCKETS: Final = ("/run/nvidia-persistenced/socket", "/run/nvidia-fabricmanager/socket")
_MPS_FOLDER: Final = "/tmp/nvidia-mps"  # noqa: S108 - NVIDIA's default
_SOCKET_OPTIONS: Final = ("rbind", "rw", "nosuid", "nodev", "noexec", "rprivate")
_CAPABILITIES: Final = Path("/proc/driver/nvidia/capabilities")
_DEV: Final = Path("/dev")
# Sets of devices that containers had together.
_MOST_KEPT: Final = 256


@dataclass(frozen=True, slots=True)
class Wanted:
    """A device as specifications and device nodes name it.

    ``index`` and ``minor`` are the card's; ``place`` and ``instances`` a partition's number on its
    card and its GPU and compute instance.
    """

    uuid: str
    index: int
    minor: int | None
    place: int | None = None
    instances: tuple[int, int] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What specifications may call it, the surest first."""
        if self.place is not None:
            part = f"{self.index}:{self.place}"
            return self.uuid, part, f"mig{part}"
        numbers = dict.fromkeys(n for n in (self.index, self.minor) if n is not None)
        return (self.uuid, *(str(n) for n in numbers), *(f"gpu{n}" for n in numbers))


@dataclass(frozen=True, slots=True)
class _Kept:
    """What was made of specifications, and what the files were of which it was made."""

    covered: list[cdi.Found]
    marks: Mapping[str, tuple[int, ...] | None]
    needs: Needs


class Files:
    """Finds the driver's files. ``dev`` and ``capabilities`` are where the kernel has its nodes."""

    def __init__(
        self, config: Settings, dev: Path = _DEV, capabilities: Path = _CAPABILITIES
    ) -> None:
        """Begin with nothing read."""
        self._specs = cdi.Specs(tuple(config.cdi_dirs))
        self._withhold = config.withhold
        self._dev = dev
        self._capabilities = capabilities
        self._kept: dict[tuple[tuple[str, str], ...], _Kept] = {}

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong with specifications, as of the last time that they were read."""
        return self._specs.faults

    def covered(self, wanted: Sequence[Wanted]) -> list[cdi.Found] | None:
        """Return where a specification has all of these devices; None when one is in none."""
        devices = self._specs.devices(KIND)
        found = [self._covering(device, devices) for device in wanted]
        return [item for item in found if item is not None] if all(found) else None

    def needs(self, wanted: Sequence[Wanted]) -> Needs:
        """Return what a container needs for these devices. Raises VendorError."""
        covered = self.covered(wanted)
        try:
            if covered is None:
                needs = self._made(
                    self._nodes(wanted), own_libraries(self._withhold), own_mounts(), {}, ()
                )
            else:
                needs = self._specified(covered)
        except (cdi.CdiError, elf.ElfError, AliquotError) as error:
            raise VendorError(str(error)) from error
        return replace(needs, substitutes=substitutes())

    def _specified(self, covered: list[cdi.Found]) -> Needs:
        """Return what specifications have, as it was made before if no file of it has changed.

        Raises VendorError, CdiError, ElfError, AliquotError.
        """
        key = tuple((str(found.spec.path), found.name) for found in covered)
        kept = self._kept.get(key)
        if kept and kept.covered == covered and kept.marks == _marks(kept.marks):
            return kept.needs
        edits = cdi.merge(covered)
        if self._withhold:
            nodes = [n for n in edits.nodes if not _WITHHELD_NODES.fullmatch(n.path)]
            edits = replace(edits, nodes=tuple(nodes))
        sources = {mount.source for mount in edits.mounts}
        sources |= {os.path.realpath(source) for source in sources}
        # Before they are read: what changes meanwhile is read again the next time.
        marks = _marks(sources | {node.host_path for node in edits.nodes})
        where = str(covered[0].spec.path)
        libraries, mounts = self._sorted(edits, where)
        has_driver = any(CUDA in library.names for library in libraries)
        if not has_driver:
            # A specification of nodes only: the driver is the node's own.
            libraries += own_libraries(self._withhold)
        needs = self._made(
            cdi.nodes(edits, where), libraries, mounts, dict(edits.env), _kept_hooks(edits)
        )
        if has_driver and None not in marks.values():
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            self._kept[key] = _Kept(covered, marks, needs)
        return needs

    def _made(
        self,
        nodes: tuple[DeviceNode, ...],
        libraries: tuple[Library, ...],
        mounts: tuple[BindMount, ...],
        env: Mapping[str, str],
        hooks: tuple[Hook, ...],
    ) -> Needs:
        """Return all but the substitutes."""
        return Needs(
            nodes=nodes,
            mounts=mounts,
            libraries=libraries,
            # Whatever of NVIDIA's is in the way as well must not inject a second time.
            environment={**env, "NVIDIA_VISIBLE_DEVICES": "void"},
            withheld=WITHHELD if self._withhold else (),
            hooks=hooks,
            foreign_hooks=FOREIGN_HOOKS,
        )

    def _covering(self, device: Wanted, devices: Mapping[str, cdi.Found]) -> cdi.Found | None:
        for name in device.names:
            found = devices.get(name)
            if found is not None and (name == device.uuid or _is_of(found, device)):
                return found
        return None

    def _nodes(self, wanted: Sequence[Wanted]) -> tuple[DeviceNode, ...]:
        needed = [self._dev / "nvidiactl"]
        for device in wanted:
            if device.minor is None:
                raise VendorError(
                    f"{device.uuid}: the driver does not tell its device node: write a CDI "
                    "specification (nvidia-ctk cdi generate)"
                )
            needed.append(self._dev / f"nvidia{device.minor}")
            needed += self._partition_nodes(device)
        nodes = []
        for path in dict.fromkeys(needed):
            node = _own_node(path)
            if node is None:
                raise VendorError(
                    f"{path} is not there: make the driver's nodes (nvidia-modprobe -c 0 -u)"
                )
            nodes.append(node)
        # Made by the driver at its first use, or not at all where the kernel lacks UVM.
        optional = [self._dev / name for name in ("nvidia-uvm", "nvidia-uvm-tools")]
        if not self._withhold:
            optional.append(self._dev / "nvidia-modeset")
        return (*nodes, *(node for node in map(_own_node, optional) if node is not None))

    def _partition_nodes(self, device: Wanted) -> list[Path]:
        """Return the nodes that let a partition be used (nvidia-capN)."""
        if device.instances is None:
            return []
        gpu, compute = device.instances
        card = self._capabilities / f"gpu{device.minor}/mig/gi{gpu}"
        return [
            self._dev / f"nvidia-caps/nvidia-cap{_capability(path)}"
            for path in (card / "access", card / f"ci{compute}/access")
        ]

    def _sorted(
        self, edits: cdi.Edits, where: str
    ) -> tuple[tuple[Library, ...], tuple[BindMount, ...]]:
        """Sort mounts into libraries and others, leaving out what is withheld or not for us."""
        links = _links(edits)
        machine = elf.own_machine()
        libraries: dict[str, Library] = {}
        mounts: dict[str, BindMount] = {}
        for mount in edits.mounts:
            name = os.path.basename(mount.destination.rstrip("/"))  # noqa: PTH119 - a text
            if self._withhold and _is_withheld(mount.destination, name):
                continue
            if not os.path.lexists(mount.source):
                raise VendorError(
                    f"{where} names {mount.source}, which is not there: write it anew "
                    "(nvidia-ctk cdi generate)"
                )
            if not _LIBRARY.fullmatch(name):
                mounts[mount.destination] = mount
                continue
            file = Path(os.path.realpath(mount.source))
            library = elf.read(file)
            if library.machine == machine:
                # (Of other machines there is no shim, so their drivers stay out.)
                libraries[name] = Library(file, _names(name, library.soname, links))
        return tuple(libraries.values()), tuple(mounts.values())


def _is_withheld(path: str, name: str) -> bool:
    return bool(_WITHHELD_FILES.search(path) or _WITHHELD_NAMES.match(name))


def _marks(paths: Iterable[str]) -> dict[str, tuple[int, ...] | None]:
    """Return what changes when a file does, of each path; None for one that is not there."""
    return {path: _mark(path) for path in paths}


def _mark(path: str) -> tuple[int, ...] | None:
    try:
        state = os.stat(path)  # noqa: PTH116 - of each file for each container
    except OSError:
        return None
    which = (state.st_dev, state.st_ino, state.st_mode, state.st_rdev)
    if stat.S_ISDIR(state.st_mode):
        # It is handed in as a whole, whatever is in it.
        return which
    return (*which, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


def substitutes() -> tuple[Substitute, ...]:
    """Return the shims that stand in the place of NVIDIA's libraries."""
    shim = Path(os.environ.get("ALIQUOT_SHIM") or aliquot.shim.library())
    beside = {CUDA: shim, NVML: aliquot.shim.library().with_name(NVML)}
    return tuple(
        Substitute(soname, path, DRIVER_NAMES[soname])
        for soname, path in beside.items()
        # A CUDA shim that is missing is the caller's to report.
        if soname == CUDA or path.is_file()
    )


def own_libraries(withhold: bool) -> tuple[Library, ...]:
    """Find the driver's libraries that belong to the CUDA driver that the loader would load.

    They lie in its folder, in those that have links to it, or where the loader looks. A file with
    the driver's version is taken before any other. Raises AliquotError when there is no driver.
    """
    installation = drivers.find(os.environ)
    driver = Path(installation.driver)
    found = _VERSION.search(driver.name)
    version = found[1] if found else None
    near = [Path(f.path) for f in installation.folders if f.driver == installation.driver]
    near += [Path(folder) for folder in drivers.loader_folders(os.environ)]
    folders = dict.fromkeys([driver.parent, *(folder.resolve() for folder in near)])
    machine = elf.own_machine()
    stems = (*COMPUTE, *UTILITY, *(() if withhold else OPENCL))
    libraries = []
    for stem in stems:
        for folder in folders:
            made = _own_library(folder, stem, version, machine)
            if made is not None:
                libraries.append(made)
                break
    return tuple(libraries)


def own_mounts() -> tuple[BindMount, ...]:
    """Return the driver's programs and sockets that are on this node."""
    mounts = []
    for name in PROGRAMS:
        path = shutil.which(name, path=_PROGRAM_PATH)
        if path is not None:
            mounts.append(BindMount(str(Path(path).resolve()), f"/usr/bin/{name}"))
    mounts += [
        # A socket that is mounted read-only cannot be connected to.
        BindMount(path, path, _SOCKET_OPTIONS)
        for path in _SOCKETS
        if _is(path, stat.S_ISSOCK)
    ]
    mps = os.environ.get("CUDA_MPS_PIPE_DIRECTORY", _MPS_FOLDER)
    if _is(f"{mps}/control", lambda mode: stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        mounts.append(BindMount(mps, _MPS_FOLDER, _SOCKET_OPTIONS))
    return tuple(mounts)


def _is(path: str, test: Callable[[int], bool]) -> bool:
    try:
        return test(Path(path).stat().st_mode)
    except OSError:
        return False


def _own_library(
    folder: Path, stem: str, version: str | None, machine: tuple[int, int, int]
) -> Library | None:
    """Return a library of a folder with all its names there, None when it is not there."""
    try:
        names = [n for n in os.listdir(folder) if n == f"{stem}.so" or n.startswith(f"{stem}.so.")]  # noqa: PTH208
    except OSError:
        return None
    by_file: dict[Path, set[str]] = {}
    for name in names:
        if _LIBRARY.fullmatch(name):
            by_file.setdefault((folder / name).resolve(), set()).add(name)
    # The driver's version first, then the newest: what an update left behind comes last.
    for file in sorted(by_file, key=lambda file: _rank(file, version), reverse=True):
        try:
            library = elf.read(file)
        except elf.ElfError:
            continue
        if library.machine == machine:
            names_here = by_file[file] | {file.name} | ({library.soname} - {None})
            return Library(file, tuple(sorted(str(n) for n in names_here)))
    return None


def _rank(file: Path, version: str | None) -> tuple[bool, list[int]]:
    numbers = [int(part) for part in re.findall(r"[0-9]+", file.name.partition(".so")[2])]
    return version is not None and file.name.endswith(f".so.{version}"), numbers


def _names(name: str, soname: str | None, links: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names that a library needs: its own, its SONAME, and the links that end there."""
    names = {name, *({soname} - {None})}
    while True:
        more = {link for link, target in links.items() if target in names} - names
        if not more:
            return tuple(sorted(str(n) for n in names))
        names |= more


def _links(edits: cdi.Edits) -> dict[str, str]:
    """Return the links between libraries that the specification's hooks would make.

    They are told as `--link TARGET::LINK`, or in one text with `=`.
    """
    links = {}
    for hook in edits.hooks:
        for argument in _link_arguments(hook.args):
            target, sign, link = argument.partition("::")
            name = link.rpartition("/")[2]
            if sign and _LIBRARY.fullmatch(name):
                links[name] = target.rpartition("/")[2]
    return links


def _link_arguments(args: Sequence[str]) -> Iterator[str]:
    for number, argument in enumerate(args):
        name, sign, value = argument.partition("=")
        if name in {"--link", "-link"}:
            if sign:
                yield value
            elif number + 1 < len(args):
                yield args[number + 1]


def _kept_hooks(edits: cdi.Edits) -> tuple[Hook, ...]:
    """Return the hooks that are not NVIDIA's: what those do for libraries is done by us."""
    return tuple(
        hook
        for hook in edits.hooks
        if not any(fnmatch.fnmatchcase(hook.path, pattern) for pattern in FOREIGN_HOOKS)
    )


def _is_of(found: cdi.Found, device: Wanted) -> bool:
    """Return whether a device that is called by a number is this one, by its node.

    Numbers change when a card is added; specifications are not always written anew.
    """
    if device.minor is None:
        return True
    node = f"/dev/nvidia{device.minor}"
    return any(n.path == node for n in found.edits.nodes)


def _own_node(path: Path) -> DeviceNode | None:
    try:
        state = path.stat()
    except OSError:
        return None
    if not stat.S_ISCHR(state.st_mode):
        return None
    return DeviceNode(
        path=str(path),
        major=os.major(state.st_rdev),
        minor=os.minor(state.st_rdev),
        mode=stat.S_IMODE(state.st_mode),
    )


def _capability(path: Path) -> int:
    """Return the number in a file of the driver that lets a partition be used."""
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            text = file.read(4096)
    except OSError as error:
        raise VendorError(f"{path} cannot be read: {error.strerror}: is MIG on?") from error
    found = re.search(r"^DeviceFileMinor: ([0-9]+)$", text, re.MULTILINE)
    if not found:
        raise VendorError(f"{path} does not say which node the partition has")
    return int(found[1])
