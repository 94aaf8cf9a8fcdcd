"""What stands in for `model.call` while compressors are attached."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence

import keras

from tfstruct.errors import ModelError
from tfstruct.graph.layer_tree import give_losses
from tfstruct.keras_internals.layer_parts import all_layers, assign_past_scopes, stored_precision
from tfstruct.keras_internals.replacing import replaced_attributes


class ModelCall:
    """Calls the model inside of scopes, or what computes in its place.

    Attributes:
        scopes: functions that give a context manager, opened around each call.
        instead: what is called with the model's arguments; None: the model's own `call`.
    """

    def __init__(self, model: keras.Model):
        self.model = model
        self.scopes: list[Callable] = []
        self.instead: Callable | None = None
        self._standing_in = contextlib.ExitStack()

    @classmethod
    def of(cls, model: keras.Model) -> "ModelCall":
        """The one that stands in for the call of this model, put there now if there is none."""
        found = vars(model).get("call")
        if found is None:
            found = cls(model)
            found._standing_in.enter_context(replaced_attributes(model, call=found))
        if not isinstance(found, cls):
            raise ModelError(f"`{model.name}.call` was replaced by {found!r}: call the method of its class.")
        return found

    @classmethod
    @contextlib.contextmanager
    def lifted(cls, model: keras.Model) -> Iterator[None]:
        """While it is open, the model and those in it compute as if nothing stood in for their calls."""
        with contextlib.ExitStack() as stack:
            for part in all_layers(model):
                if isinstance(vars(part).get("call"), cls):
                    stack.enter_context(replaced_attributes(part, call=functools.partial(type(part).call, part)))
            yield

    def __call__(self, *args, **kwargs):
        with contextlib.ExitStack() as stack:
            for scope in self.scopes:
                stack.enter_context(scope())
            if self.instead is not None:
                return self.instead(*args, **kwargs)
            return type(self.model).call(self.model, *args, **kwargs)

    def release(self, part: Callable) -> None:
        """Goes on without this scope or replacement; without any, the model has its own call again."""
        if part in self.scopes:
            self.scopes.remove(part)
        if self.instead is part:
            self.instead = None
        if not self.scopes and self.instead is None and vars(self.model).get("call") is self:
            self._standing_in.close()


@contextlib.contextmanager
def replaced(model: keras.Model, values: Sequence[tuple]) -> Iterator[None]:
    """While it is open, variables read as other values: (variable, tensor). All else goes on as without it."""
    with stored_precision():
        scope = _Replaced(values, collect_losses=True)
    with scope:
        yield
    give_losses(scope, model)


class _Replaced(keras.StatelessScope):
    """Of the scopes that Keras looks for by thread, as replicas of a model run in several."""

    def get_current_value(self, variable):
        value = super().get_current_value(variable)
        return self.original_scope.get_current_value(variable) if value is None and self.original_scope else value

    def add_update(self, update) -> None:
        variable, value = update
        if self.original_scope is not None:
            self.original_scope.add_update(update)
        else:
            assign_past_scopes(variable, value)
