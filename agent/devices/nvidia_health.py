"""Whether NVIDIA's devices can be used: by what they answer now, and what events told.

A device is unhealthy

- while it does not answer, or its driver asks for it to be reset (the recovery action of drivers
  since 565);
- after an XID error that is not the application's own, or an uncorrectable memory error. That
  fault stays until the device has shown that it was reset: it was lost or asked for a reset and
  answers again, or the driver was unloaded meanwhile, or the driver tells recovery actions and
  has none left. Without any of these an unhealthy device stays so until the agent is restarted.

NVIDIA's library keeps devices open, so that `nvidia-smi --gpu-reset` needs the agent stopped: this
too ends in a restart. Where waiting for events fails, only the events are lost: each device still
answers for itself, and the set of events is made anew.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pynvml

from . import Health, nvml

# Faults of a program in its own kernels and copies, as NVIDIA's device plugin has them too.
APPLICATION_XIDS: Final = frozenset({13, 31, 43, 45, 68, 109})

# Errors of a device that is there and only will not tell this.
_ANSWERS: Final = frozenset(
    {
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_NO_PERMISSION,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
    }
)
_ANY_INSTANCE: Final = 0xFFFFFFFF
# More events than this in one look can wait for the next.
_MOST_EVENTS: Final = 1024
_MOST_ROUNDS: Final = 64
_RECOVERY_ACTION_FIELD: Final = 230
_RECOVERY_ACTIONS: Final = {
    1: "a reset of the device",
    2: "a reboot of the node",
    3: "its peer traffic to be drained",
    4: "its peer traffic to be drained and a reset of the device",
    5: "its IMEX domain to be recovered",
    6: "a reset of its PCIe bus",
    7: "a reboot of the system",
}


@dataclass(frozen=True, slots=True)
class Watched:
    """A device to watch. ``card`` is the physical device's UUID, its own unless it is a partition.

    ``instances`` are a partition's GPU and compute instance.
    """

    uuid: str
    card: str
    instances: tuple[int, int] | None = None


class Watch:
    """What is known of the health of devices, from one look to the next."""

    def __init__(self) -> None:
        """Begin with nothing known."""
        self._events: Any = None
        self._session = 0
        self._reloads = 0
        self._faults: dict[str, str] = {}
        self._silent: dict[str, tuple[int, str]] = {}
        self._rounds = 0
        self._next_try = 1

    def look(
        self, session: nvml.Session, watched: Sequence[Watched], handles: Mapping[str, nvml.Handle]
    ) -> tuple[Health, ...]:
        """Return each device's health. ``handles`` are the cards', None for one that is lost.

        Call it in a held session. Raises pynvml.NVMLError when that has ended.
        """
        if session.number != self._session:
            self._begin(session, handles)
        before = dict(self._faults)
        self._read_events(watched, handles)
        for card, handle in handles.items():
            self._ask(card, handle, watched, before)
        return tuple(Health(item.uuid, not text, text) for item, text in self._texts(watched))

    def wants_new_session(self) -> bool:
        """Whether the session should be begun anew because a device is lost, seldom and seldomer.

        A handle of a lost device may stay so although the device came back.
        """
        if not any(code in nvml.RESET_NEEDED for code, _ in self._silent.values()):
            self._rounds, self._next_try = 0, 1
            return False
        self._rounds += 1
        if self._rounds < self._next_try:
            return False
        self._rounds, self._next_try = 0, min(self._next_try * 2, _MOST_ROUNDS)
        return True

    def end(self) -> None:
        """Let go of the events."""
        if self._events is not None:
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlEventSetFree(self._events)
        self._events = None

    def _texts(self, watched: Sequence[Watched]) -> list[tuple[Watched, str]]:
        return [
            (item, self._silent.get(item.card, (0, ""))[1] or self._faults.get(item.uuid, ""))
            for item in watched
        ]

    def _begin(self, session: nvml.Session, handles: Mapping[str, nvml.Handle]) -> None:
        """Ask for events in a new session; the old session's set went with it."""
        self._events = None
        self._session = session.number
        if session.reloads != self._reloads:
            self._reloads = session.reloads
            self._faults.clear()
        self._register(handles)

    def _register(self, handles: Mapping[str, nvml.Handle]) -> None:
        self._events = nvml.reading(pynvml.nvmlEventSetCreate)
        if self._events is None:
            return
        wanted = pynvml.nvmlEventTypeXidCriticalError | pynvml.nvmlEventTypeDoubleBitEccError
        for handle in handles.values():
            if handle is None:
                continue
            known = nvml.reading(pynvml.nvmlDeviceGetSupportedEventTypes, handle)
            # A device without events is watched by what it answers.
            types = wanted if known is None else wanted & known
            if types:
                nvml.reading(pynvml.nvmlDeviceRegisterEvents, handle, types, self._events)

    def _read_events(self, watched: Sequence[Watched], handles: Mapping[str, nvml.Handle]) -> None:
        if self._events is None:
            self._register(handles)
        for _ in range(_MOST_EVENTS):
            if self._events is None:
                return
            try:
                event = pynvml.nvmlEventSetWait_v2(self._events, 0)
            except pynvml.NVMLError as error:
                if nvml.code_of(error) in nvml.ENDED:
                    raise
                if nvml.code_of(error) != pynvml.NVML_ERROR_TIMEOUT:
                    self.end()
                return
            text = _fault_of(event)
            if text:
                for item in _targets(event, watched, handles):
                    self._faults[item.uuid] = text

    def _ask(
        self,
        card: str,
        handle: nvml.Handle,
        watched: Sequence[Watched],
        before: Mapping[str, str],
    ) -> None:
        """Ask a card whether it is there, and forget the faults that a reset has mended."""
        mine = [item.uuid for item in watched if item.card == card]
        was = self._silent.pop(card, None)
        code, text = _answer(handle)
        if text:
            # Lost is not forgotten for a moment of another error.
            kept = was is not None and was[0] in nvml.RESET_NEEDED
            self._silent[card] = (was[0] if was is not None and kept else code, text)
            return
        if was is not None and was[0] in nvml.RESET_NEEDED:
            for uuid in mine:
                self._faults.pop(uuid, None)
        action = _recovery_action(handle)
        if action:
            wanted = _RECOVERY_ACTIONS.get(action, f"recovery action {action}")
            self._silent[card] = (0, f"the driver asks for {wanted}")
        elif action == 0:
            # What was told just now is shown at least once.
            for uuid in mine:
                if uuid in before:
                    self._faults.pop(uuid, None)


def _answer(handle: nvml.Handle) -> tuple[int, str]:
    """Return why a card does not answer, with NVML's number; 0 and "" when it does."""
    if handle is None:
        return pynvml.NVML_ERROR_GPU_IS_LOST, "the device does not answer: GPU is lost (15)"
    try:
        pynvml.nvmlDeviceGetMemoryInfo(handle)
    except pynvml.NVMLError as error:
        code = nvml.code_of(error)
        if code in nvml.ENDED:
            raise
        if code in _ANSWERS:
            return 0, ""
        return code, f"the device does not answer: {nvml.describe(error)}: reset it"
    return 0, ""


def _recovery_action(handle: nvml.Handle) -> int | None:
    """Return what the driver asks for, 0 for nothing, None when it cannot tell."""
    values = nvml.reading(pynvml.nvmlDeviceGetFieldValues, handle, [_RECOVERY_ACTION_FIELD])
    if values is None or values[0].nvmlReturn != pynvml.NVML_SUCCESS:
        return None
    return int(values[0].value.uiVal)


def _fault_of(event: nvml.Event) -> str:
    if event.eventType == pynvml.nvmlEventTypeDoubleBitEccError:
        return "uncorrectable memory error (ECC): reset the device"
    if event.eventType == pynvml.nvmlEventTypeXidCriticalError:
        xid = int(event.eventData)
        if xid not in APPLICATION_XIDS:
            return f"XID {xid}: look it up in NVIDIA's list of XID errors, and reset the device"
    return ""


def _targets(
    event: nvml.Event, watched: Sequence[Watched], handles: Mapping[str, nvml.Handle]
) -> list[Watched]:
    """Return the devices that an event is about; none when it names no device of ours."""
    wanted = nvml.address(event.device)
    if not wanted:
        return []
    card = next(
        (uuid for uuid, handle in handles.items() if handle and nvml.address(handle) == wanted),
        None,
    )
    card = card or nvml.reading(pynvml.nvmlDeviceGetUUID, event.device)
    found = []
    for item in watched:
        if card not in {item.card, item.uuid}:
            continue
        asked = (int(event.gpuInstanceId), int(event.computeInstanceId))
        if item.instances is None or all(
            number in {mine, _ANY_INSTANCE}
            for number, mine in zip(asked, item.instances, strict=True)
        ):
            found.append(item)
    return found
