"""`Factorize`: replaces kernels by products of smaller ones."""

import dataclasses
from collections.abc import Mapping

import keras
import numpy as np

from tfstruct.analyze import Costs
from tfstruct.compression.alternatives.alternative import Alternative, Part
from tfstruct.compression.decision import Decision
from tfstruct.compression.outcome import Outcome
from tfstruct.compression.outlook import Outlook
from tfstruct.compression.step_context import StepContext
from tfstruct.compression.steps.edits import trained_after
from tfstruct.compression.steps.step import Choices, Proposal, Step, require_choices
from tfstruct.errors import ModelError
from tfstruct.keras_internals.layer_parts import all_layers
from tfstruct.surgery import factorize
from tfstruct.surgery.factor.targets import Form, by_path, forms_of

_LARGE = 0.15  # of all parameters: a layer worth a factorization
_ENERGY = 0.99
_WORTH = 0.6  # the share of its parameters that a factorized layer may have
# Of what may be chosen:
_NOTED = 0.025  # of all parameters or multiply-accumulates: a layer worth a look
_METHODS = ("svd", "tucker", "spatial", "depthwise")
_SHARES = (0.7, 0.5, 0.35, 0.25, 0.15)  # of the parameters of a layer that its factors have


@dataclasses.dataclass(frozen=True)
class Factors(Choices):
    """Which large layers are factorized, and how far.

    Attributes:
        energies: of kernels that are factorized, that stays; 1: they are not.
        factorized: layers for it.
        methods: of factorization.
    """

    place = 3

    energies: tuple[float, ...] = (1.0,)
    factorized: tuple[str, ...] = ()
    methods: tuple[str, ...] = ("svd",)

    def __post_init__(self):
        require_choices(self, "energies", "methods")

    @classmethod
    def of(cls, task) -> "Factors":
        large = tuple(
            layer for layer in task.model.layers
            if hasattr(layer, "kernel") and layer.count_params() >= _LARGE * task.original.params
        )  # fmt: skip
        if not large:
            return cls()
        methods = ("svd", "spatial") if any(map(_has_two_axes, large)) else ("svd",)
        return cls((1.0, 0.99, 0.9, 0.75), tuple(layer.name for layer in large), methods)

    @property
    def distributions(self) -> dict:
        from optuna.distributions import CategoricalDistribution

        found = {"energy": CategoricalDistribution(self.energies)} if self.factorized else {}
        if self.factorized and len(self.methods) > 1:
            found["method"] = CategoricalDistribution(self.methods)
        return found

    def steps(self, point) -> tuple[Step, ...]:
        energy = point.get("energy", 1.0)
        if energy >= 1:
            return ()
        return (Factorize(layers=self.factorized, energy=energy, method=point.get("method", self.methods[0])),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Factorize(Step):
    """Replaces kernels by products of smaller ones (`surgery.factorize`), and trains them.

    Attributes:
        layers: names; None: all.
        energy: of each kernel, that stays, in (0, 1]; 0.95 where nothing else is given.
        macs: instead of `energy`: the share of the multiply-accumulates that may stay.
        rank: instead of both: of all these layers, or by name.
        method: of `surgery.factorize`.
    """

    kind = "factorize"
    share = 0.3
    place = 4
    choices = Factors

    layers: tuple[str, ...] | None = None
    energy: float | None = None
    macs: float | None = None
    rank: int | tuple[int, int] | Mapping[str, int | tuple[int, int]] | None = None
    method: str = "svd"

    @classmethod
    def propose(cls, outlook: Outlook) -> Proposal:
        """Factorizes large layers of low rank."""

        def refused(why: str) -> Proposal:
            return Proposal(decisions=(Decision(cls.kind, False, why),))

        if not {"params", "tflite_bytes", "macs"} & outlook.wanted:
            return refused("the budget asks for nothing that a low rank would save")
        model = outlook.task.model
        layers = [
            layer for layer in all_layers(model, itself=False)
            if hasattr(layer, "kernel") and layer.count_params() >= _LARGE * model.count_params()
        ]  # fmt: skip
        try:
            made = factorize(model, lambda layer: layer in layers, energy=_ENERGY) if layers else None
        except ModelError as error:
            return refused(str(error))
        details = {} if made is None else made.details
        low = {path: d for path, d in details.items() if d["parameters"][1] <= _WORTH * d["parameters"][0]}
        if not low:
            return refused(
                f"no layer with {_LARGE:.0%} of the parameters has {_ENERGY:.0%} of its energy in a low rank"
            )
        why = "; ".join(f"{path} has {_ENERGY:.0%} of its energy in rank {d['rank']}" for path, d in low.items())
        step = cls(layers=tuple(low), energy=_ENERGY, reason=why, optional=True)
        return Proposal((step,), (Decision(cls.kind, True, why),))

    @classmethod
    def parts(cls, task) -> tuple[Part, ...]:
        costs = Costs(task.graph).by_call()
        params, macs = costs["params"], costs["macs"]
        row = {call.path: i for i, call in enumerate(task.graph.calls)}
        found = []
        for path, calls in by_path(task.graph).items():
            shares = (params[row[path]] / max(params.sum(), 1), macs[row[path]] / max(np.nansum(macs), 1))
            if max(shares) < _NOTED:
                continue
            forms = forms_of(path, calls, _METHODS, _SHARES)
            others = [Alternative(_named(form), {"layer": path, "method": form.method, "rank": _rank(form)})
                      for form in sorted(forms, key=lambda form: -form.params)]  # fmt: skip
            if others:
                found.append(Part.of(f"form of {path}", cls.kind, others, [path]))
        return tuple(found)

    @classmethod
    def assembled(cls, chosen) -> tuple[Step, ...]:
        ranks: dict[str, dict] = {}
        for one in chosen.values():
            ranks.setdefault(one.settings["method"], {})[one.settings["layer"]] = one.settings["rank"]
        return tuple(cls(layers=tuple(own), rank=own, method=method) for method, own in ranks.items())

    def edit(self, model):
        return factorize(model, self.layers, **self._options()).model

    def run(self, context: StepContext) -> Outcome:
        return trained_after(context, self, factorize(context.model, self.layers, **self._options()))

    def _options(self) -> dict:
        given = (self.rank, self.energy, self.macs)
        energy = 0.95 if all(one is None for one in given) else self.energy
        return {"rank": self.rank, "energy": energy, "macs": self.macs, "method": self.method}


def _rank(form: Form) -> int | tuple[int, ...]:
    """As `factorize` takes it."""
    return form.rank[0] if len(form.rank) == 1 else form.rank


def _named(form: Form) -> str:
    return f"{form.method}, rank {' and '.join(map(str, form.rank))}"


def _has_two_axes(layer: keras.layers.Layer) -> bool:
    """A convolution over an area, whose kernel may be a column and a row."""
    return isinstance(layer, keras.layers.Conv2D) and min(layer.kernel_size) > 1
