"""The devices that a file can be checked for, one a module: each has a `DEVICE`, and is found by being here."""

import importlib
import pkgutil

from tfstruct.convert.devices.device import Device
from tfstruct.errors import RecipeError


def devices() -> tuple[Device, ...]:
    """All devices, those first that run most operators."""
    modules = (importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__))
    found = [module.DEVICE for module in modules if hasattr(module, "DEVICE")]
    return tuple(sorted(found, key=lambda one: (bool(one.operators), -len(one.operators), one.name)))


def device(name: str) -> Device:
    """A device by its name, or by that of a variant such as `"ethos-u55-256"`.

    Raises:
        RecipeError: there is no such device.
    """
    every = devices()
    variants = {name: one for device in every for name, one in device.variants.items()}
    known = {**variants, **{one.name: one for one in every}}
    if name not in known:
        like = [one for one in every if any(part in name.lower() for part in one.also_called)]
        meant = f" Meant is perhaps {like[0].name!r}: {like[0].what}." if like else ""
        raise RecipeError(
            f"`target` must be one of {', '.join(one.name for one in every)}, or one of the variants "
            f"{', '.join(variants)}. Received: {name!r}.{meant}"
        )
    return known[name]
