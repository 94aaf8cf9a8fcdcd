"""Records what layers do when a model is called: each that is opened as a recording of its own."""

import contextlib
from collections.abc import Callable, Iterator

import keras
import numpy as np

from tfstruct.graph.opening import symbolic
from tfstruct.graph.opening.composites import OPERATIONS
from tfstruct.graph.opening.custom import call_of, is_loop
from tfstruct.graph.opening.parts import AddedLoss, Constant, Weight
from tfstruct.graph.opening.recording import (
    ClosedError,
    Loop,
    RecordedCall,
    Recording,
    as_precise_as_tensors,
    reason_of,
)
from tfstruct.graph.trace import functional_of, tensors_in
from tfstruct.keras_internals.graph_nodes import mask_of, nodes_in_order, set_mask, takes_training
from tfstruct.keras_internals.layer_parts import all_layers
from tfstruct.keras_internals.recorded_calls import (
    NO_ATTRIBUTES_OF_CALLS,
    computed_spec,
    operations_as,
    set_masks_as_layer,
    watched_calls,
)
from tfstruct.keras_internals.replacing import replaced_attributes


class Recorder:
    """Records calls of a model in which some layers are opened.

    Args:
        opens: whether a layer is to be opened.
        training: how the model is called.
        weights: by id of a variable the layer that owns it as a tensor, over all recordings of one opening.
        composites: whether composites are recorded in their form.
        losing: ids of the layers that add losses in inference; a recording in inference adds its own.

    Attributes:
        closed: layers that could not be opened, by id: (layer, reason).
    """

    def __init__(
        self,
        opens: Callable[[keras.layers.Layer], bool],
        training: bool,
        weights: dict[int, Weight],
        composites: bool = False,
        losing: set[int] | None = None,
    ):
        self.opens, self.training, self.weights, self.composites = opens, training, weights, composites
        self._losing: set[int] = set() if losing is None else losing
        self.closed: dict[int, tuple[keras.layers.Layer, str]] = {}
        self._frames: list[Recording] = []
        self._inside_known = 0
        self._loops: dict[int, Loop] = {}  # id of a layer whose cell has just been recorded
        self._just_opened: keras.layers.Layer | None = None
        self._variables: dict[int, dict[str, object]] = {}  # id of a layer -> its attributes as they are
        self._swapped: dict[int, tuple[keras.layers.Layer, dict[str, object]]] = {}

    def record(self, model: keras.Model, structure) -> Recording:
        """The model called on symbolic tensors of the shapes and dtypes of `structure`.

        Raises:
            ClosedError: the model itself cannot be recorded.
        """
        root = Recording(model)
        given = keras.tree.map_structure(lambda x: keras.KerasTensor(x.shape, x.dtype), structure)
        with self._hooked(model):
            self._frames.append(root)
            try:
                model(given, training=self.training)
            finally:
                self._frames.clear()
        (recording,) = [one.operation for one in root.calls if isinstance(one.operation, Recording)]
        return recording

    # Hooks.

    @contextlib.contextmanager
    def _hooked(self, model: keras.Model) -> Iterator[None]:
        def refuse_read(variable):
            if not self._inside_known:
                raise ClosedError(f"it computes with the numbers of the variable {variable.path} itself")

        def refuse_draw():
            if not self._inside_known:
                raise ClosedError("it draws random numbers itself")

        with contextlib.ExitStack() as stack:
            stack.enter_context(watched_calls(lambda: bool(self._frames), self._note, refuse_read, refuse_draw))
            forms = symbolic.FORMS | (OPERATIONS if self.composites else {})
            stack.enter_context(operations_as(forms, lambda: bool(self._frames) and not self._inside_known))
            for layer in all_layers(model):
                stack.enter_context(replaced_attributes(layer, **self._stand_ins(layer, layer is model)))
            yield

    def _stand_ins(self, layer: keras.layers.Layer, is_top: bool) -> dict[str, Callable]:
        """What stands in for calls of the layer: those on symbolic tensors are recorded, and those on numbers become
        calls on a constant."""
        symbolic_call, call, add_loss = layer.symbolic_call, layer.call, layer.add_loss

        def as_known(*args, **kwargs):
            with self._known(layer):
                try:
                    outputs = symbolic_call(*args, **kwargs)
                except Exception:
                    if not self.training or not takes_training(layer):
                        raise
                    outputs = symbolic_call(*args, **{**kwargs, "training": False})  # one for inference only
                if any(None in x.shape for x in tensors_in(outputs)):
                    # `compute_output_shape` may leave out sizes that are known here.
                    with contextlib.suppress(Exception):
                        outputs = computed_spec(call, *args, **kwargs)
                return outputs

        def on_tensors(*args, **kwargs):
            if self._inside_known or not self._frames:
                return symbolic_call(*args, **kwargs)
            if is_top:
                return self._opened(layer, args, kwargs)
            loop = is_loop(layer)
            if not self.opens(layer) or id(layer) in self.closed or (loop and id(layer.cell) in self.closed):
                return as_known(*args, **kwargs)
            frame, count = self._frames[-1], len(self._frames[-1].calls)
            depth = len(self._frames)
            try:
                if not loop:
                    return self._opened(layer, args, kwargs)
                self._loops[id(layer)] = self._step_of(layer, *args, **kwargs)
                return as_known(*args, **kwargs)
            except Exception as error:  # whatever a user's code raises on symbolic tensors
                del self._frames[depth:]
                del frame.calls[count:]
                closed = layer.cell if loop else layer
                self.closed[id(closed)] = (closed, reason_of(error))
                return as_known(*args, **kwargs)

        def on_numbers(*args, **kwargs):
            if self._inside_known or not self._frames:
                return call(*args, **kwargs)
            numbers = [x for x in keras.tree.flatten((args, kwargs)) if keras.ops.is_tensor(x)]
            if not numbers:
                raise ClosedError(f"it calls {layer.name} without a tensor")
            args, kwargs = keras.tree.map_structure(
                lambda x: self._constant(x) if x is numbers[0] else x, (args, kwargs)
            )
            return layer(*args, **kwargs)

        def on_loss(loss):
            if self._inside_known or not self._frames:
                return add_loss(loss)
            flat = keras.tree.flatten(loss)
            self._frames[-1].losses.extend(self._constant(x) if keras.ops.is_tensor(x) else x for x in flat)

        hooks = {"symbolic_call": on_tensors, "add_loss": on_loss}
        return hooks if isinstance(layer, keras.Model) else {**hooks, "call": on_numbers}

    @contextlib.contextmanager
    def _known(self, layer: keras.layers.Layer) -> Iterator[None]:
        """Inside a layer that a rule knows nothing is recorded, and its variables are variables."""
        inner = {id(one) for one in all_layers(layer)}
        put_back = [(one, values) for key, (one, values) in self._swapped.items() if key in inner]
        swapped = [(one, {name: one.__dict__[name] for name in values}) for one, values in put_back]
        self._inside_known += 1
        try:
            for one, values in put_back:
                one.__dict__.update(values)
            yield
        finally:
            self._inside_known -= 1
            for one, values in swapped:
                one.__dict__.update(values)

    # Notes.

    def _note(self, operation, args, kwargs, outputs) -> None:
        if self._inside_known:
            return
        if operation is self._just_opened:
            self._just_opened = None  # Keras notes a layer once more after its call
            return
        given = kwargs.get("training")
        strange = [x for x in keras.tree.flatten((args, kwargs)) if isinstance(x, keras.Variable)]
        if strange:  # a file would not hold it
            raise ClosedError(f"it computes with the variable {strange[0].path}, which no layer of the model has")
        if isinstance(operation, keras.layers.Layer):
            if given is not None and bool(given) != self.training:
                raise ClosedError(f"it calls {operation.name} with a `training` of its own")
            kwargs = {key: value for key, value in kwargs.items() if key != "training"}
        else:
            args, kwargs = as_precise_as_tensors(args, kwargs, outputs)
        operation = self._loops.pop(id(operation), operation)
        self._frames[-1].calls.append(RecordedCall(operation, tuple(args), dict(kwargs), keras.tree.flatten(outputs)))

    def _constant(self, x) -> keras.KerasTensor:
        frame = self._frames[-1]
        if not frame.inputs:
            raise ClosedError("it computes with numbers before it has an input")
        array = keras.ops.convert_to_numpy(x)
        layer = Constant(array, str(array.dtype))
        output = layer.compute_output_spec(frame.inputs[0])
        frame.calls.append(RecordedCall(layer, (frame.inputs[0],), {}, [output]))
        return output

    def _opened(self, layer: keras.layers.Layer, args: tuple, kwargs: dict):
        """Runs the layer's own code; the frame around it gets one call, with the recording as its operation."""
        if getattr(layer, "activity_regularizer", None) is not None:
            raise ClosedError("it has an activity regularizer")
        recording = Recording(layer)
        outer: dict[int, keras.KerasTensor] = {}
        inside: dict[int, keras.KerasTensor] = {}

        def entered(x):
            if id(x) not in inside:
                outer[id(x)], inside[id(x)] = x, keras.KerasTensor(x.shape, x.dtype)
                recording.inputs.append(inside[id(x)])
            return inside[id(x)]

        args, kwargs = keras.tree.map_structure(
            lambda x: entered(x) if isinstance(x, keras.KerasTensor) else x, (args, kwargs)
        )
        for key in list(outer):
            mask = mask_of(outer[key])
            if mask is not None:
                set_mask(inside[key], entered(mask))
                recording.given_masks.append((id(inside[key]), id(inside[id(mask)])))
        recording.arguments = args, kwargs
        recording.outputs = self._run(layer, recording, args, kwargs)
        if recording.losses:
            self._add_losses(recording)
        left = self._leave(recording)
        self._frames[-1].calls.append(
            RecordedCall(recording, tuple(outer.values()), {}, [left[id(x)] for x in recording.results])
        )
        self._just_opened = layer
        return keras.tree.map_structure(
            lambda x: left[id(x)] if isinstance(x, keras.KerasTensor) else x, recording.outputs
        )

    def _add_losses(self, recording: Recording) -> None:
        """The first output becomes that of an operation that adds the losses of the call."""
        if not self.training:
            self._losing.add(id(recording.layer))
        flat = keras.tree.flatten(recording.outputs)
        first = next((x for x in flat if isinstance(x, keras.KerasTensor)), None)
        if first is None:
            raise ClosedError("it adds a loss and returns no tensor")
        part = AddedLoss(id(recording.layer) not in self._losing)
        output = part.compute_output_spec(first)
        set_mask(output, mask_of(first))
        recording.calls.append(RecordedCall(part, (first, *recording.losses), {}, [output]))
        recording.outputs = keras.tree.map_structure(lambda x: output if x is first else x, recording.outputs)

    def _step_of(self, layer: keras.layers.RNN, sequences: keras.KerasTensor, initial_state=None, **others) -> Loop:
        """One step of the cell of a loop, recorded on its own."""
        cell = layer.cell
        if layer.stateful:
            raise ClosedError("its loop keeps its states between calls")
        sizes = keras.tree.flatten(layer.state_size)
        if len(sizes) > len(layer.state_size) and initial_state is not None:
            raise ClosedError("it is given states for cells that have several")
        with self._known(layer):
            if any(map(np.any, map(np.asarray, keras.tree.flatten(layer.get_initial_state(2))))):
                raise ClosedError("it starts from states that are not zero")
        batch = sequences.shape[0]
        x = keras.KerasTensor((batch, *sequences.shape[2:]), sequences.dtype)
        states = [keras.KerasTensor((batch, size), cell.compute_dtype) for size in sizes]
        recording = Recording(cell, [x, *states])
        before = keras.tree.pack_sequence_as(layer.state_size, states)
        training = {"training": self.training} if takes_training(cell) else {}
        recording.outputs = self._run(cell, recording, (x, before), training)
        self._leave(recording)
        if recording.losses:
            raise ClosedError("it adds a loss at each step")
        if len(keras.tree.flatten(recording.outputs)) != 1 + len(states):
            raise ClosedError("it returns other states than it says")
        return Loop(layer, recording)

    def _leave(self, recording: Recording) -> dict[int, keras.KerasTensor]:
        """Fills in the results; by id of each, the tensor that stands for it outside."""
        flat = [x for x in keras.tree.flatten(recording.outputs) if x is not None]
        if not flat or not all(isinstance(x, keras.KerasTensor) for x in flat):
            raise ClosedError("it returns something that is no tensor of its inputs")
        made = {id(x): x for x in recording.inputs} | {id(x): x for one in recording.calls for x in one.outputs}
        results = {id(x): x for x in flat}
        lost = [x for x in results.values() if id(x) not in made]
        if lost:
            raise ClosedError("it returns a tensor that was not made of its inputs")
        recording.masks = {key: mask_of(x) for key, x in results.items() if id(mask_of(x)) in made}
        results |= {id(mask): mask for mask in recording.masks.values()}
        recording.results = list(results.values())
        left = {key: keras.KerasTensor(x.shape, x.dtype) for key, x in results.items()}
        for key, mask in recording.masks.items():
            set_mask(left[key], left[id(mask)])
        return left

    def _run(self, layer: keras.layers.Layer, recording: Recording, args: tuple, kwargs: dict):
        functional = functional_of(layer) if isinstance(layer, keras.Model) else None
        self._frames.append(recording)
        try:
            if functional is not None:
                return self._walked(functional, args[0] if args else next(iter(kwargs.values())))
            with self._variables_as_tensors(layer, recording):
                outputs = call_of(layer, self.composites)(layer, *args, **kwargs)
                outputs = keras.tree.map_structure(
                    lambda x: self._constant(x) if keras.ops.is_tensor(x) else x, outputs
                )
                if args:
                    before = kwargs.get("mask")
                    before = keras.tree.map_structure(mask_of, args[0]) if before is None else before
                    set_masks_as_layer(layer, args[0], outputs, before)
                return outputs
        finally:
            self._frames.pop()

    def _walked(self, functional, given):
        """A functional model, node by node: its own `call` would be one operation."""
        by = dict(zip(map(id, functional.inputs), keras.tree.flatten(given), strict=True))
        for node in nodes_in_order(functional):
            if node.is_input or any(id(x) not in by for x in node.input_tensors):
                continue
            args, kwargs = node.arguments.fill_in(by)
            if isinstance(node.operation, keras.layers.Layer):
                kwargs = {key: value for key, value in kwargs.items() if key != "training"}  # Keras does so too
                if takes_training(node.operation):
                    kwargs["training"] = self.training
            outputs = keras.tree.flatten(node.operation(*args, **kwargs))
            by.update(zip(map(id, node.outputs), outputs, strict=True))
        return keras.tree.map_structure(lambda x: by[id(x)], functional.output)

    @contextlib.contextmanager
    def _variables_as_tensors(self, layer: keras.layers.Layer, recording: Recording) -> Iterator[None]:
        """While it is open, attributes that hold variables hold symbolic tensors, which `Weight` layers return."""
        inside: dict[int, keras.KerasTensor] = {}

        def tensor(variable):
            if id(variable) not in inside:
                inside[id(variable)] = self._weight(variable, owner, layer, recording)
            return inside[id(variable)]

        changed = []
        try:
            for owner in all_layers(layer):
                own = self._variables.setdefault(id(owner), {})
                for name, value in list(owner.__dict__.items()):
                    if name in NO_ATTRIBUTES_OF_CALLS or not (name in own or _holds_variables(value)):
                        continue
                    original = own.setdefault(name, value)
                    changed.append((owner, name, value))
                    owner.__dict__[name] = _swapped(original, tensor)
                if own:
                    self._swapped[id(owner)] = (owner, own)
            yield
        finally:
            for owner, name, value in reversed(changed):
                owner.__dict__[name] = value
                if value is self._variables[id(owner)].get(name):
                    self._swapped.pop(id(owner), None)

    def _weight(self, variable, owner, layer, recording: Recording) -> keras.KerasTensor:
        part = self.weights.get(id(variable))
        if part is None:
            name = variable.name if owner is layer else f"{owner.name}_{variable.name}"
            part = self.weights[id(variable)] = Weight.holding(variable, name, owner.dtype_policy)
        if not recording.inputs:
            raise ClosedError("it has no tensor as its input")
        output = part.compute_output_spec(recording.inputs[0])
        recording.calls.append(RecordedCall(part, (recording.inputs[0],), {}, [output]))
        return output


def _holds_variables(value) -> bool:
    if isinstance(value, keras.Variable):
        return True
    if isinstance(value, (list, tuple)):
        return any(map(_holds_variables, value))
    return isinstance(value, dict) and any(map(_holds_variables, value.values()))


def _swapped(value, tensor: Callable):
    if isinstance(value, keras.Variable):
        return tensor(value)
    if isinstance(value, (list, tuple)):
        return (tuple if isinstance(value, tuple) else list)(_swapped(x, tensor) for x in value)
    if isinstance(value, dict):
        return {key: _swapped(x, tensor) for key, x in value.items()}
    return value
