"""An HDF5 file, looked through before a loader reads it: it holds its own values, and no more than its size allows."""

import os

from tfstruct.errors import ModelError

_MOST_OBJECTS = 200_000
_HARMLESS = 256 << 20
_LARGEST_RATIO = 100


def refuse_reach(stream, size: int, file) -> None:
    """Refuses an HDF5 file with values outside itself, or more of them than fit.

    A link or a dataset can name another file, whose content then is a weight; values that were never written take
    no room in the file.

    Args:
        stream: an open `h5py.File`.
        size: bytes of the file.
        file: what errors call it.

    Raises:
        ModelError: names the file, the object and the remedy.
    """
    import h5py

    room, left, todo = max(_HARMLESS, _LARGEST_RATIO * size), _MOST_OBJECTS, [stream]
    seen = set()
    while todo:
        group = todo.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            continue
        seen.add(address)
        left -= len(group)
        if left < 0:
            raise ModelError(f"{file} holds more than {_MOST_OBJECTS:,} HDF5 objects, as no model does. Refused.")
        for name in group:
            path = f"{group.name.rstrip('/')}/{name}"
            if type(group.get(name, getlink=True)) is not h5py.HardLink:
                _refuse(file, path, "is a link")
            item = group[name]
            if isinstance(item, h5py.Group):
                todo.append(item)
            elif isinstance(item, h5py.Dataset):
                if item.external or item.is_virtual:
                    _refuse(file, path, "lies in another file")
                room -= item.nbytes
                if room < 0:
                    raise ModelError(f"{file} would take far more memory than its {size:,} bytes: {path}. Refused.")


def refuse_reach_of(path: str | os.PathLike) -> None:
    """`refuse_reach` of a file that is not open.

    Raises:
        ModelError: as there.
        OSError: no HDF5 file, or a damaged one.
    """
    import h5py

    with h5py.File(path, "r") as stream:
        refuse_reach(stream, os.path.getsize(path), path)


def _refuse(file, path: str, what: str) -> None:
    raise ModelError(
        f"{file} holds the HDF5 object {path!r}, which {what}. Expected values in the file itself: save it again."
    )
