"""Cambricon's MIM: parts of a card that its hardware keeps apart, as devices of their own.

Whoever administers the node makes them (`cnmon mim`); here they are only found. A card that has MIM
switched on is used by its instances alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from . import cndev

_ENABLED: Final = 1
_ALL: Final = 100
_MIB: Final = 1 << 20
_LIST: Final = "cndevGetAllMluInstanceInfo"


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance as the library tells it; ``nodes`` are its device files, below /dev.

    ``cores`` are those of the card that it has, by their numbers there.
    """

    number: int
    uuid: str
    profile: str
    memory_bytes: int
    nodes: tuple[str, ...]
    cores: range

    def handle(self, slot: int) -> int:
        """Return what the library calls it on the card in a slot, where it takes it as a card."""
        return self.number << 8 | slot

    def busy(self, load: cndev.Value) -> float | None:
        """Return how busy its cores are, of what the card tells of all of its own.

        None: the card does not tell of each of them.
        """
        told = load.coreUtilization
        if not self.cores or self.cores.start < 0 or self.cores.stop > len(told):
            return None
        percents = [int(told[core]) for core in self.cores]
        if any(not 0 <= percent <= _ALL for percent in percents):
            return None
        return sum(percents) / len(percents) / _ALL


def used(session: cndev.Session, device: int) -> bool:
    """Whether a card is parted so; one that does not tell it is where it has instances.

    Raises CndevError when the session has ended.
    """
    if not session.has("cndevGetMimMode", _LIST):
        return False
    mode = session.reading("cndevMimMode_t", "cndevGetMimMode", device)
    if mode is not None:
        return bool(mode.mimMode == _ENABLED)
    try:
        return bool(instances(session, device))
    except cndev.CndevError as error:
        if error.code in cndev.ENDED:
            raise
        return False


def instances(session: cndev.Session, device: int) -> list[Instance]:
    """Return the instances of a card. Raises CndevError."""
    return session.listed("cndevMluInstanceInfo_t", _LIST, device, _instance)


def _instance(row: cndev.Value) -> Instance:
    # (The unit is not said. 32 bits hold no card's bytes; all else of CNDev's is in MiB.)
    nodes = (cndev.text_of(row.devNodeName), cndev.text_of(row.ipcmDevNodeName))
    _, start, size = (int(number) for number in row.placement)
    return Instance(
        number=int(row.instanceId),
        uuid=cndev.text_of(row.uuid),
        profile=cndev.text_of(row.profileName),
        memory_bytes=max(int(row.memorySize), 0) * _MIB,
        nodes=tuple(node for node in nodes if node),
        cores=range(start, start + max(size, 0)),
    )
