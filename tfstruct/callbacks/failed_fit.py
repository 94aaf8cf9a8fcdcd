"""What is taken off a model when its `fit` fails or is interrupted: Keras tells no callback of that."""

import contextlib
import functools
import threading
from collections.abc import Callable

import keras

_running = threading.local()  # .fits: (model, what is to be undone) of each `fit` that runs in this thread


def when_fit_fails(model: keras.Model, undo: Callable[[], object]) -> None:
    """Calls `undo` if the `fit` of the model that runs now ends by an exception, KeyboardInterrupt too."""
    for fitted, undone in reversed(getattr(_running, "fits", [])):
        if fitted is model:
            undone.callback(undo)
            return


def _watched(fit: Callable) -> Callable:
    @functools.wraps(fit)
    def watched(model, *args, **kwargs):
        fits = _running.__dict__.setdefault("fits", [])
        with contextlib.ExitStack() as undone:
            fits.append((model, undone))
            try:
                result = fit(model, *args, **kwargs)
            finally:
                fits.pop()
            undone.pop_all()  # Ended as it should: nothing to undo.
            return result

    return watched


# An exception leaves `fit` past all callbacks, so that it is `fit` itself that has to be watched.
keras.Model.fit = _watched(keras.Model.fit)
