"""`close_layers`: opened layers as layers of the user's class again."""

import dataclasses
from collections.abc import Mapping

import keras

from tfstruct.arguments import checked
from tfstruct.errors import ModelError
from tfstruct.graph.opening.closing import close_model
from tfstruct.graph.opening.origin import Origin
from tfstruct.reporting import Report, Result, Sheet
from tfstruct.reporting.tables import counted
from tfstruct.surgery.compiling import compile_like
from tfstruct.untrusted.descriptions import refuse_code

# Layers of Keras that are opened for what they hold.
_WRAPPERS = {kind.__name__: kind for kind in (keras.layers.TimeDistributed, keras.layers.Bidirectional)}


@dataclasses.dataclass(frozen=True)
class ClosingReport(Report):
    """Which opened layers of a model are of their own class again.

    Attributes:
        name: of the model.
        closed: path of a layer -> {argument: (before, now)}, of the arguments that changed.
        kept: path of a layer that stays opened -> why.
    """

    name: str
    closed: Mapping[str, Mapping[str, tuple[int, int]]]
    kept: Mapping[str, str]

    def sheet(self) -> Sheet:
        rows = [
            (path, ", ".join(f"{name} {before} -> {now}" for name, (before, now) in changed.items()) or "as before")
            for path, changed in self.closed.items()
        ]
        return Sheet(
            f"{self.name}: {counted(len(self.closed), 'layer')} closed, {len(self.kept)} kept open",
            ("layer", "arguments"),
            rows,
            left_alone=tuple(self.kept.items()),
        )


@checked
def close_layers(model: keras.Model, custom_objects: Mapping[str, type] | None = None) -> Result:
    """Makes opened layers layers of their own class again, with smaller arguments after surgery.

    Which numbers of a layer's configuration (`get_config`) its weights' sizes follow is found by trying each with
    another value. A layer is made of the changed configuration, gets the weights, and is compared with the opened one:
    outputs, outputs in training and gradients on random inputs, to 1e-5 and 1e-4 of the largest value. What cannot be
    made again so stays opened, with the reason: it is a nested model of Keras's own layers and needs no class of the
    user's.

        >>> class Feed(keras.layers.Layer):
        ...     def __init__(self, width, **kwargs):
        ...         super().__init__(**kwargs)
        ...         self.width = width
        ...
        ...     def build(self, shape):
        ...         self.kernel = self.add_weight(shape=(shape[-1], self.width), name="kernel")
        ...
        ...     def call(self, x):
        ...         return keras.ops.relu(keras.ops.matmul(x, self.kernel))
        >>> inputs = keras.Input((4,))
        >>> fed = keras.Model(inputs, keras.layers.Dense(2)(Feed(8, name="feed")(inputs)), name="fed")
        >>> opened = tfstruct.surgery.open_layers(fed).model
        >>> smaller = tfstruct.apply(opened, tfstruct.plan_channels(opened, 0.5))
        >>> print(tfstruct.surgery.close_layers(smaller))
        fed: 1 layer closed, 0 kept open
          layer  arguments
          feed   width 8 -> 4

    Args:
        model: with layers opened by `open_layers`, such as `apply` makes smaller or `keras.models.load_model` loads.
            It is not changed.
        custom_objects: name of a class -> the class, for those of a loaded model that are not registered with Keras.
            No file causes code to be imported: a class that is neither registered nor given, nor was opened in this
            process, leaves its layer open.

    Returns:
        A `Result`. Its model is a new one, uncompiled, with copies of the weights; a closed layer has its name. Its
        report says what was `closed`, with the arguments that changed, and what is `kept` open and why.

    Raises:
        ModelError: the model has no graph.
    """
    given = dict(custom_objects or {})

    def class_of(origin: Origin, config) -> type[keras.layers.Layer] | str:
        names = (origin.registered_name, origin.class_name)
        kind = next((given[name] for name in names if name in given), origin.kind)
        kind = (
            kind or keras.saving.get_registered_object(origin.registered_name) or _WRAPPERS.get(origin.registered_name)
        )
        if not isinstance(kind, type) or not issubclass(kind, keras.layers.Layer):
            return (
                f"its class {origin.class_name} is not registered with Keras: give it, "
                f"custom_objects={{{origin.class_name!r}: ...}}"
            )
        try:
            refuse_code(config, f"the opened layer {config.get('name')!r}")
        except ModelError as error:
            return f"its configuration names what is not known here: {error}"
        return kind

    with keras.saving.custom_object_scope(given):
        found = close_model(model, class_of)
    compile_like(found.model, model)
    return Result(found.model, ClosingReport(found.model.name, found.closed, found.kept))
