"""Draws that go on where a saved model left off."""

import keras
from keras import ops

from tfstruct.arguments import require_count

_KEY = "seed_state"


class Seeded:
    """A layer with a seed generator whose state is saved, which Keras does not: a model that was loaded in the middle
    of training draws what the uninterrupted one would have drawn.

    For a class before `keras.layers.Layer` among the bases; it has to set `seed_generator`.
    """

    def save_own_variables(self, store):
        super().save_own_variables(store)  # type: ignore[misc]  # of the layer, behind it
        if hasattr(self, "seed_generator"):
            store[_KEY] = ops.convert_to_numpy(self.seed_generator.state)

    def load_own_variables(self, store):
        found = {key: store[key] for key in store.keys()}  # noqa: SIM118 (an entry of an HDF5 file is no mapping)
        state = found.pop(_KEY, None)
        super().load_own_variables(found)  # type: ignore[misc]
        if state is not None and hasattr(self, "seed_generator"):
            self.seed_generator.state.assign(state)


def require_seed(seed):
    """The seed that was given: a whole number, or None for a random one; Keras takes True for one, and fails later."""
    return None if seed is None else require_count("seed", seed, 0)


def uniform(shape, seed: keras.random.SeedGenerator):
    """Draws in (0, 1), in float32 whatever the policy."""
    return ops.clip(keras.random.uniform(shape, dtype="float32", seed=seed), 1e-7, 1 - 1e-7)
