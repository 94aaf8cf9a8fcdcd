"""The opened cell of an `RNN`: a functional model that runs at each step, and how channels pass through its loop."""

import keras
import numpy as np

from tfstruct.graph.call import Axes, Call, Channels
from tfstruct.graph.rebuild import remade
from tfstruct.graph.rules.recurrent import cell_rule, given_states, hold_time, join_states


@keras.saving.register_keras_serializable("tfstruct")
class OpenedCell(keras.layers.Layer):
    """A cell that runs a model at each step.

    Args:
        model: functional, from `[input, *states]` to different tensors.
        order: which of these the output is, and each new state.
        single_state: whether the cell says its one state's size as a number.
    """

    def __init__(self, model, order, single_state=False, **kwargs):
        super().__init__(**kwargs)
        self.model, self.order, self.single_state = model, tuple(order), single_state
        sizes = [x.shape[-1] for x in model.inputs[1:]]
        self.state_size = sizes[0] if single_state else sizes
        self.output_size = model.outputs[self.order[0]].shape[-1]
        self.built = True

    def call(self, inputs, states, training=None):
        made = keras.tree.flatten(self.model([inputs, *keras.tree.flatten(states)], training=training))
        output, *after = (made[i] for i in self.order)
        return output, after

    def get_config(self):
        return {
            **super().get_config(),
            "model": keras.saving.serialize_keras_object(self.model),
            "order": list(self.order),
            "single_state": self.single_state,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        model = keras.saving.deserialize_keras_object(config.pop("model"))
        dtype = config.pop("dtype", None)
        dtype = keras.dtype_policies.deserialize(dtype) if isinstance(dtype, dict) else dtype
        return cls(model, **config, dtype=dtype)


@cell_rule(OpenedCell)
def opened_cell(call: Call) -> list[Axes]:
    """The channels of a state are the same before and after a step."""
    layer, cell = call.op, call.op.cell
    hold_time(call)
    x = Channels((None, *call.input.shape[2:]), (None, *call.input.axes[2:]), call.input.key)
    states = [call.fresh(spec.shape[-1], f"{cell.name}.state{i}") for i, spec in enumerate(cell.model.inputs[1:])]
    inside = call.enter(cell.model, cell.name, [x, *(Channels((None, len(one)), (None, one), -1) for one in states)])
    results = [inside.outputs[i].axes[-1] for i in cell.order]
    for before, after in zip(states, results[1:], strict=True):
        call.unite(before, after)
    steps = call.input.shape[1]
    for step in inside.calls:
        call.slots.extend(step.slots)
        call.makes.update(step.makes)
        call.lookups.extend(step.lookups)
        times = call.per_sample * (np.nan if steps is None else steps)
        call.costs.extend((factor * times, labels) for factor, labels in step.costs)
        call.opaque = call.opaque or step.opaque

    def cell_of(kept):
        new = OpenedCell(remade(inside, kept), cell.order, cell.single_state, name=cell.name, dtype=cell.dtype_policy)
        return keras.saving.serialize_keras_object(new)

    call.set("cell", cell_of)
    join_states(call, layer, states, given_states(call))
    first = (None, None, results[0]) if layer.return_sequences else (None, results[0])
    return [first, *((None, labels) for labels in states)] if layer.return_state else [first]


def opened_loop(layer: keras.layers.RNN, model: keras.Model, order: list[int]) -> keras.layers.RNN:
    """An `RNN` layer as another one, around the model that its cell became."""
    cell = layer.cell
    single = isinstance(cell.state_size, int)
    names = ("return_sequences", "return_state", "go_backwards", "stateful", "unroll", "zero_output_for_mask")
    made = keras.layers.RNN(
        OpenedCell(model, order, single, name=cell.name, dtype=cell.dtype_policy),
        **{name: getattr(layer, name) for name in names},
        name=layer.name,
        dtype=layer.dtype_policy,
    )
    made.trainable = layer.trainable
    return made
