"""A model that computes as its quantized file will, with the weights of the plain one."""

import contextlib
import os
from collections.abc import Iterator

import keras
import numpy as np

from tfstruct.errors import ModelError
from tfstruct.graph.keras_model import require_model
from tfstruct.quantize.scheme import Scheme
from tfstruct.quantize.simulation import Simulation


@keras.saving.register_keras_serializable(package="tfstruct")
class Twin(keras.Model):
    """Computes what the quantized file of a model will compute, with the layers and weights of the model itself.

    Kernels are rounded to their integers; activations after what the converter fuses, one range where values only
    move; batch norm as it is, since a factor by channel scales a symmetric weight and its step alike. Ranges and steps
    are what training or `calibrate` found. In inference it counts in integers.

    Args:
        model: a built Sequential or functional model; its layers and weights are shared.
        scheme: a precision, or a `Scheme`.
        **kwargs: of `keras.Model`, such as `name`.

    Example:
        >>> twin = tfstruct.quantize.calibrate(model, x)
        >>> sorted(twin.ranges())
        ['features', 'hidden', 'scores']
    """

    def __init__(self, model: keras.Model, scheme: Scheme | str | dict = "int8", **kwargs):
        require_model(model)
        super().__init__(**{"name": f"{model.name}_twin", **kwargs})
        scheme = Scheme.from_dict(scheme) if isinstance(scheme, dict) else Scheme.of(scheme)
        self.model = model
        self.simulation = Simulation(model, scheme)
        self._ranges = self.simulation.variables
        self.built = True

    def call(self, inputs, training=None, mask=None):
        return self.simulation(inputs, training=training, mask=mask)

    def ranges(self) -> dict[str, tuple[float, float]]:
        """(low, high) by layer path or input name, for `Recipe.ranges`."""
        return self.simulation.ranges()

    def weight_limits(self) -> dict[str, tuple[float, ...]]:
        """For `Recipe.weight_limits`: the kernels whose steps the file would not find by itself."""
        return {name: tuple(map(float, limits)) for name, limits in self.simulation.weight_limits().items()}

    @contextlib.contextmanager
    def on_grid(self) -> Iterator[keras.Model]:
        """The plain model, with every kernel that is rounded to few values at these values while it is open."""
        moved = list(self.simulation.quantized_weights(nearest=False).values())
        before = [weight.numpy() for weight, _ in moved]
        try:
            for weight, value in moved:
                weight.assign(value)
            yield self.model
        finally:
            for (weight, _), value in zip(moved, before, strict=True):
                weight.assign(value)

    def save(self, filepath, *args, **kwargs) -> None:
        """Saves the twin, as Keras does.

        Raises:
            ModelError: HDF5, in which Keras cannot name its ranges.
        """
        if os.fspath(filepath).endswith((".h5", ".hdf5")):
            raise ModelError(f"`{self.name}` does not go into HDF5. Save it as .keras: {self.name}.keras.")
        super().save(filepath, *args, **kwargs)

    def export(self, *args, **kwargs) -> None:
        """Refused: its graph rounds in float.

        Raises:
            ModelError: always; with what writes the file.
        """
        raise ModelError(
            f"`{self.name}` rounds in float, which TensorFlow makes no integer file of. Write it by "
            "tfstruct.to_tflite(model), which has the ranges that were trained."
        )

    def save_spec(self, dynamic_batch: bool = True):
        """Refused: `tf.lite.TFLiteConverter` asks for it before it converts. As `export`."""
        self.export()

    @property
    def scheme(self) -> Scheme:
        return self.simulation.scheme

    def save_own_variables(self, store) -> None:
        store["ranges"] = self.simulation.values()

    def load_own_variables(self, store) -> None:
        self.simulation.assign(np.asarray(store["ranges"]))

    def get_config(self) -> dict:
        return {
            "name": self.name,
            "model": keras.saving.serialize_keras_object(self.model),
            "scheme": self.scheme.to_dict(),
        }

    @classmethod
    def from_config(cls, config: dict, custom_objects=None) -> "Twin":
        config = dict(config)
        model = keras.saving.deserialize_keras_object(config.pop("model"), custom_objects=custom_objects)
        return cls(model, **config)
