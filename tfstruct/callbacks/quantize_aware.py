"""Training with the rounding of the quantized file in the forward pass."""

from typing import ClassVar

import keras
import numpy as np

from tfstruct.arguments import checked, require_count
from tfstruct.callbacks import saved_state
from tfstruct.callbacks.compressor import Compressor
from tfstruct.callbacks.model_call import ModelCall
from tfstruct.errors import ArgumentError, ModelError
from tfstruct.graph.opening import OpenedModel, open_by_itself
from tfstruct.quantize.quantization_report import QuantizationReport, quantization_report
from tfstruct.quantize.scheme import Scheme
from tfstruct.quantize.simulation import Simulation
from tfstruct.quantize.twin import Twin


@checked
class QuantizeAware(Compressor):
    """Lets a model train with quantized weights and activations, in `fit` or in a loop of one's own.

    While attached, what the model computes is what its `twin` computes: kernels rounded to integers, one scale an
    output channel; activations rounded after what the converter fuses (see `tfstruct.quantize.Twin`). Gradients pass
    straight through the rounding (arXiv:1712.05877). The weights are the model's own and stay float; afterwards the
    model is plain Keras again.

        aware = QuantizeAware("int8")
        model.fit(x, y, callbacks=[aware])
        to_tflite(aware.twin)                                     # exactly the trained ranges
        to_tflite(model, Recipe(precision="int8", ranges=aware.ranges))  # the same

    Args:
        scheme: a precision, or a `tfstruct.quantize.Scheme`.
        start: the first step that is quantized; ranges are followed from the beginning.
        freeze_ranges: the step from which on the ranges stay; None: never.
        freeze_batch_norm: the step from which on batch norm uses its moving statistics and leaves them alone.
        open_layers: `"auto"` opens custom layers for the twin, so that the values inside are rounded too
            (`tfstruct.surgery.open_layers`). The model that is trained keeps its own; the report says which were
            opened, and why others stay closed. False: none is opened.

    Example:
        >>> aware = tfstruct.callbacks.QuantizeAware("int8")
        >>> history = model.fit(x, y, verbose=0, callbacks=[aware])
        >>> sorted(aware.ranges)
        ['features', 'hidden', 'scores']
    """

    _blank: ClassVar[dict[str, object]] = {"twin": None, "_opened": None, "_call": None}

    def __init__(
        self,
        scheme: Scheme | str = "int8",
        *,
        start: int = 0,
        freeze_ranges: int | None = None,
        freeze_batch_norm: int | None = None,
        open_layers: str | bool = "auto",
    ):
        super().__init__()
        self.scheme = Scheme.of(scheme)
        given = {"start": start, "freeze_ranges": freeze_ranges, "freeze_batch_norm": freeze_batch_norm}
        marks = {name: None if at is None else require_count(name, at, least=0) for name, at in given.items()}
        if freeze_ranges is not None and freeze_ranges <= start:
            raise ArgumentError(f"Ranges freeze before quantization starts: {freeze_ranges}, {start}.")
        self.start, self.freeze_ranges, self.freeze_batch_norm = start, freeze_ranges, freeze_batch_norm
        self.open_layers = open_layers
        self.twin: Twin | None = None
        self._opened: OpenedModel | None = None
        self._call: ModelCall | None = None
        self._settings = saved_state.described({"scheme": self.scheme, **marks, "open_layers": open_layers})

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """(low, high) by layer path, for `Recipe.ranges`."""
        if self.twin is None:
            raise ModelError("There are no ranges yet: this QuantizeAware was not attached to a model.")
        return self.twin.ranges()

    @property
    def weight_limits(self) -> dict[str, tuple[float, ...]]:
        """For `Recipe.weight_limits`: kernels with steps of their own; empty where the file finds the same by itself.

        Weights of few values (int2, ternary, binary) are in `to_tflite(twin)` only.
        """
        if self.twin is None:
            raise ModelError("There are no steps yet: this QuantizeAware was not attached to a model.")
        return self.twin.weight_limits()

    @property
    def _simulation(self) -> Simulation:
        """That of the twin, which there is from `_begin` on."""
        assert self.twin is not None
        return self.twin.simulation

    def _begin(self, model: keras.Model) -> None:
        if self.twin is None or self._opened is None:
            with ModelCall.lifted(model):
                self._opened = open_by_itself(model, self.open_layers, composites=True)
            self.twin = Twin(self._opened.model, self.scheme, name=f"{model.name}_twin")
        twin = self.twin
        call = self._call = ModelCall.of(model)
        if call.instead is not None:
            raise ModelError(f"`{model.name}` is quantized by another QuantizeAware already. Call its finish() first.")
        twin.simulation.gated = self.start > 0
        self._set(self.steps)
        call.instead = twin.simulation

    def _let_go(self) -> None:
        if self.twin is not None and self._call is not None:
            self._call.release(self.twin.simulation)
            self.twin.simulation.active.assign(1.0)
            self.twin.simulation.gated = False

    def _advance(self, before: int, now: int) -> None:
        marks = [at for at in (self.start, self.freeze_ranges, self.freeze_batch_norm) if at is not None]
        if any(before < at <= now for at in marks):
            self._set(now)

    def _set(self, step: int) -> None:
        simulation = self._simulation
        simulation.active.assign(float(step >= self.start))
        simulation.frozen.assign(float(self.freeze_ranges is not None and step >= self.freeze_ranges))
        frozen = self.freeze_batch_norm is not None and step >= self.freeze_batch_norm
        simulation.frozen_statistics.assign(float(frozen))

    def _end(self, model: keras.Model) -> QuantizationReport:
        self._let_go()
        assert self._opened is not None
        return quantization_report(self._simulation, self._opened, self.steps)

    def __getstate__(self) -> dict:
        state = super().__getstate__()
        if self.twin is not None:  # a copy makes a twin of its own, with these ranges
            state["_stored"] = {"steps": np.asarray(self.steps), **self._state()}
        return state

    def _state(self) -> dict[str, np.ndarray]:
        return {"ranges": self._simulation.values()}

    def _restore(self, state: dict[str, np.ndarray]) -> None:
        self._simulation.assign(state["ranges"])
        self._set(self.steps)
