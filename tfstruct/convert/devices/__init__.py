"""The devices that a file can be checked for, one a module: each has a `DEVICE`, and is found by being here."""

import difflib
import importlib
import pkgutil
import re

from tfstruct.convert.devices.boards import Board, BoardDevices
from tfstruct.convert.devices.device import Device
from tfstruct.errors import RecipeError

ALL = "all"
_SLIP, _NEAR = 0.9, 0.8  # how like a known name a text is


def is_all(name) -> bool:
    """Whether a name asks for the table of all devices."""
    return isinstance(name, str) and name.strip().lower() == ALL


def devices() -> tuple[Device, ...]:
    """All devices, those first that run most operators; last those that do not say what they run."""
    modules = (importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__))
    found = [module.DEVICE for module in modules if hasattr(module, "DEVICE")]
    return tuple(sorted(found, key=lambda one: (one.closed, bool(one.operators), -len(one.operators), one.name)))


def device(name: str) -> Device:
    """A device by its name, by that of a variant such as `"ethos-u55-256"` or `"cortex-m4:nano33ble"`, or by one that
    people say: `"Cortex-M4"` is its first board, `"coral"` is `"edgetpu"`.

    Raises:
        RecipeError: there is no such device.
    """
    every = devices()
    variants = {name: one for device in every for name, one in device.variants.items()}
    exact = {**variants, **{one.name: one for one in every}}
    if name in exact:
        return exact[name]
    spelled = {_plain(said): one for key, one in exact.items() for said in (key, *one.aliases)}
    found = spelled.get(_plain(name)) if isinstance(name, str) else None
    if found is not None:
        return found
    # A letter off in a long name is a slip; in a short one it is another chip of the family: stm32f4 is no stm32f7.
    slips, near = (difflib.get_close_matches(_plain(str(name)), spelled, 1, cutoff) for cutoff in (_SLIP, _NEAR))
    family = [one for one in every if any(part in str(name).lower() for part in one.also_called)]
    like = [*(spelled[one] for one in slips), *family, *(spelled[one] for one in near)]
    meant = f" Meant is perhaps {like[0].name!r}: {like[0].what}." if like else ""
    raise RecipeError(
        f"`target` must be one of {', '.join(one.name for one in every)}, or one of the variants "
        f"{', '.join(variants)}. Received: {name!r}.{meant}"
    )


def of_board(board: Board) -> Device:
    """A board as a device, which need not be known by its name."""
    found = [one.variants.of(board) for one in devices() if isinstance(one.variants, BoardDevices)]
    return next(one for one in found if one is not None)


def _plain(name: str) -> str:
    """A name without what people write in different ways: capitals, spaces, hyphens; `+` is no such thing."""
    return re.sub(r"[^a-z0-9+]", "", name.lower())
