"""The layers of a Keras model by path, and a way to stand in for their calls."""

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping

import keras
import tensorflow as tf

from tfstruct.graph.keras_model import require_model
from tfstruct.keras_internals.graph_nodes import functional_inside
from tfstruct.keras_internals.layer_parts import parts_of
from tfstruct.keras_internals.replacing import replaced_attributes


def layer_paths(model: keras.Model) -> dict[str, keras.layers.Layer | keras.Operation]:
    """Path -> layer or operation, for every one in the model, those inside nested models and layers too."""
    found: dict[str, keras.Operation] = {}
    seen: set[int] = {id(model)}

    def visit(parent, prefix):
        inner = parts_of(parent)
        if isinstance(parent, keras.Model) and hasattr(parent, "operations"):
            inner = [*parent.operations, *inner]
        for op in inner:
            if id(op) in seen or isinstance(op, keras.layers.InputLayer):
                continue
            seen.add(id(op))
            # The functional model that a Sequential keeps of itself is no layer of its own.
            own = isinstance(parent, keras.Model) and op is functional_inside(parent)
            path = prefix if own else f"{prefix}{op.name}/"
            if path != prefix:
                found.setdefault(path[:-1], op)
            visit(op, path)

    visit(model, "")
    return found


@contextlib.contextmanager
def states_kept(model: keras.Model, seeds: bool = True) -> Iterator[None]:
    """Afterwards the states of stateful recurrent layers and the seeds of random ones are what they were before.

    Running a model in inference changes nothing else of it.

    Args:
        seeds: whether those of random layers are kept too.

    Raises:
        ModelError: something else than a Keras model.
    """
    require_model(model)
    own = {id(v) for v in model.weights}
    states = {id(v): v for v in model.variables if seeds and id(v) not in own}
    for layer in layer_paths(model).values():  # Keras does not count the states of recurrent layers as variables
        for state in keras.tree.flatten(getattr(layer, "states", None)):
            if isinstance(state, keras.Variable):
                states[id(state)] = state
    before = [(state, keras.ops.convert_to_numpy(state)) for state in states.values()]
    try:
        yield
    finally:
        for state, value in before:
            state.assign(value)


def give_losses(scope: keras.StatelessScope, layer: keras.layers.Layer) -> None:
    """Hands a layer the losses of `add_loss`, activity regularizers too, that a scope around its call has kept from it.

    The scope has to be opened with `collect_losses=True`; without, they are lost.
    """
    for loss in scope.losses:
        keras.layers.Layer.add_loss(layer, loss)  # that of functional models is not implemented


@contextlib.contextmanager
def intercepted(
    ops: Mapping[str, keras.Operation], route: Callable[[str, keras.Operation, Callable], Callable]
) -> Iterator[None]:
    """While it is open, each operation's `call` is `route(path, operation, call)`; afterwards as before.

    One that is opened inside of another is nearer to the operation: the outer one sees what the inner one returns. What
    a replica opens holds for its own calls only.
    """
    opened = []
    try:
        for path, op in ops.items():
            if not isinstance(vars(op).get("call"), _Routed):
                _Routed(op)
            opened.append((op, op.call.add(lambda call, path=path, op=op: route(path, op, call))))
        yield
    finally:
        for op, added in opened:
            op.call.routes.remove(added)
            if not op.call.routes:
                op.call.close()


class _Routed:
    """An operation's call, with the routes that are laid over it, the outermost first."""

    def __init__(self, op: keras.Operation):
        self.own = op.call
        self.routes: list[_Route] = []
        self._replacing = contextlib.ExitStack()
        self._replacing.enter_context(replaced_attributes(op, call=self))

    def close(self) -> None:
        """The operation has its own call again."""
        self._replacing.close()

    def add(self, route: Callable[[Callable], Callable]) -> "_Route":
        added = _Route(_replica())
        added.call = route(lambda *args, **kwargs: self._inside(added)(*args, **kwargs))
        self.routes.append(added)
        return added

    def __call__(self, *args, **kwargs):
        return self._inside(None)(*args, **kwargs)

    def _inside(self, outer: "_Route | None") -> Callable:
        """What is called inside of `outer`, as this replica sees it."""
        replica = _replica()
        routes = self.routes[self.routes.index(outer) + 1 :] if outer else self.routes
        for route in routes:
            if route.replica in (None, replica) and route.call is not None:
                return route.call
        return self.own


@dataclasses.dataclass(eq=False)
class _Route:
    replica: int | None
    call: Callable | None = None


def _replica() -> int | None:
    """The thread of this replica: replicas run the same operations in turns. None where there is one only."""
    context = tf.distribute.get_replica_context()
    return None if context is None or context.num_replicas_in_sync == 1 else threading.get_ident()


@contextlib.contextmanager
def without_activation(op) -> Iterator[Callable | None]:
    """While it is open, the layer leaves out its own activation, which is handed out."""
    own = op.activation
    with replaced_attributes(op, activation=keras.activations.linear):
        yield own
