"""Weights that share few values while a model trains."""

import dataclasses
from typing import ClassVar

import keras
import numpy as np

from tfstruct import codebooks
from tfstruct.arguments import checked, require_count
from tfstruct.callbacks import saved_state
from tfstruct.callbacks.cluster_report import ClusterReport, SharedWeight
from tfstruct.callbacks.compressor import Compressor
from tfstruct.callbacks.model_call import ModelCall, replaced
from tfstruct.callbacks.sharing import Sharing
from tfstruct.callbacks.tied_weights import Codebook, Tied
from tfstruct.errors import ArgumentError, ModelError
from tfstruct.graph.frozen import frozen_note, frozen_weights, without_frozen
from tfstruct.graph.kernels import Kernel, Which, kernels, lent


@checked
class Cluster(Compressor):
    """Lets the weights of a kernel share few values and trains these, in `fit` or in a loop of one's own.

    When training begins, weights are put into groups, and each gets the value of its group. Then
    c_k <- c_k - lr * sum(dL/dw_i) over the weights i of group k, or what the optimizer makes of that gradient
    (Sec. 3.3, arXiv:1510.00149): in the backward pass every weight gets the sum over its group, penalties included, so
    that any Keras optimizer moves a group as one. SGD and gradient clipping see larger gradients than without sharing.
    The forward pass is the model's own: batch norm and dropout know that it trains.

        cluster = Cluster(bits=4)
        model.fit(x, y, callbacks=[cluster])
        to_tflite(model, Recipe(precision="int8", weight_limits=cluster.weight_limits, calibration=x[:500]))

    Afterwards the model is plain Keras, with at most `n_clusters` distinct values in a kernel. Zeros of `Prune` stay:
    prune first, or in the same `fit` with `callbacks=[Prune(...), Cluster(...)]`. An optimizer that has trained the
    model before has slots for single weights: compile anew, unless it has none.

    How weights are put into groups, `share`:

    - "kmeans": those of like value, by `init` and Lloyd's algorithm in one dimension, see `codebooks.kmeans`.
    - "hash": by a hash of their place, with a sign: w_i = s(i) c_h(i) (HashedNets, arXiv:1504.04788). Nothing but
      `seed` has to be stored beside the values. The values start at the mean of s(i) w_i.
    - "product": product quantization. The weights that make one output, or a row of an embedding, are cut into runs of
      `block`; runs of like values have one codeword, and the entries at one place of it are a group. A kernel then has
      at most `block * n_clusters` values for each codebook.

    Args:
        n_clusters: the number of values, at least 2; for "product" of codewords.
        bits: instead of `n_clusters`: 2^bits.
        share: see above.
        per: what has one codebook: "layer" (a kernel), "channel" (what makes one output channel; for "product" the runs
            at one place of the row), or "model".
        init: the first centroids of k-means: "kmeans++", "linear", "density" or "quantile", see `codebooks.initial`.
        entropy: the bits that the best code may need for a weight, on average over all kernels, so that files pack
            smaller. Large kernels get fewer bits a weight, and perhaps fewer values, see `codebooks.by_value`.
        keep_zeros: zero stays zero, and counts among the values (for "product" besides them).
        layers: which layers, see `kernels`; None for all dense, convolution, embedding, recurrent, attention and
            EinsumDense kernels that have more weights than values.
        depthwise: whether depthwise kernels take part too.
        frozen: whether kernels that do not train (`trainable = False`) take part too, and keep the values that they get
            when training begins; else they are left alone, and the report says which.
        block: the length of a run, for "product".
        seed: of the draws of k-means++, and of the hash.

    Example:
        >>> history = model.fit(x, y, verbose=0, callbacks=[tfstruct.callbacks.Cluster(4)])
        >>> len(np.unique(model.get_layer("hidden").kernel)) <= 4
        True
    """

    _blank: ClassVar[dict[str, object]] = {"_kernels": [], "_codebooks": [], "_call": None}

    def __init__(
        self,
        n_clusters: int | None = None,
        *,
        bits: int | None = None,
        share: str = "kmeans",
        per: str = "layer",
        init: str = "kmeans++",
        entropy: float | None = None,
        keep_zeros: bool = True,
        layers: Which = None,
        depthwise: bool = False,
        frozen: bool = False,
        block: int | None = None,
        seed: int = 0,
    ):
        super().__init__()
        if (n_clusters is None) == (bits is None):
            raise ArgumentError(f"Give either `n_clusters` or `bits`. Received: n_clusters={n_clusters}, bits={bits}.")
        if bits is not None:
            require_count("bits", bits)
        count = n_clusters if bits is None else 2**bits
        assert count is not None  # one of both is given
        self.sharing = Sharing(count, share, per, init, entropy, keep_zeros, block, seed)
        self.layers, self.depthwise, self.frozen = layers, depthwise, frozen
        self._kernels: list[Kernel] = []
        self._codebooks: list[Codebook] = []
        self._saved: dict[str, tuple] = {}  # groups and signs by kernel, for a second `fit`
        self._errors: list[float] = []
        self._skipped: list[tuple[str, str]] = []
        self._notes: list[str] = []
        self._call: ModelCall | None = None
        self._tested = self._called = False
        settings = {**dataclasses.asdict(self.sharing), "layers": layers, "depthwise": depthwise, "frozen": frozen}
        self._settings = saved_state.described(settings)

    @property
    def centroids(self) -> dict[str, np.ndarray]:
        """The distinct values of each kernel, by its name (layer path and weight), in order."""
        return {kernel.name: codebooks.distinct(lent(kernel.variable))[0] for kernel in self._held()}

    @property
    def weight_limits(self) -> dict[str, tuple[float, ...]]:
        """For `Recipe.weight_limits`: one step for a whole kernel, so that an integer file has the shared values.

        Each value becomes one integer in all channels, also after batch norm has been folded. A channel whose batch
        norm has a negative factor has the negated integers. With per="channel", one step a channel. A table of an
        embedding needs none: it has one step anyway. In int4, say `rounding="nearest"`.
        """
        found = {}
        for kernel in self._held():
            view = kernel.view(kernel.variable.numpy())
            apart = view.reshape(-1, view.shape[-1]).T if self.sharing.per == "channel" else view.reshape(1, -1)
            if kernel.sums:
                found[kernel.name] = tuple(codebooks.integer_limit(one) or 1.0 for one in apart)
        return found

    def _held(self) -> list[Kernel]:
        if not self._kernels:
            raise ModelError("There are no shared weights yet: this Cluster was not attached to a model.")
        return self._kernels

    def _begin(self, model: keras.Model) -> None:
        self._notes, self._tested, self._called = [], False, False
        found = kernels(model, self.layers, self.depthwise)
        left: list[tuple[str, str]] = []
        if not self.frozen:
            found, left = without_frozen(model, found)
        self._kernels = self._fitting(found)
        self._require_alike_trained(frozen_weights(model))
        self._skipped += left
        self._notes += frozen_note(left, "kernels")
        books = self.sharing.books(self._kernels)
        self._codebooks = []
        for book in books:
            self._codebooks.append(Codebook())
            for kernel in book:
                size, zeros = self.sharing.size(kernel), self.sharing.keep_zeros
                tied = Tied(kernel.variable, type(self).__name__, size, zeros, self.sharing.kind == "hash")
                self._codebooks[-1].add(tied)
        self._call = ModelCall.of(model)
        self._call.scopes.append(self._shared)
        if self._stored is None:
            if self._saved.keys() != {kernel.name for kernel in self._kernels}:  # at first, and when others are frozen
                self._saved, self._errors = {}, []
            self._share(list(self._saved.values()) or self.sharing.groups(books))

    def _fitting(self, found: list[Kernel]) -> list[Kernel]:
        bad = [(kernel, why) for kernel in found if (why := self.sharing.misfit(kernel))]
        if bad and (self.layers is not None or len(bad) == len(found)):
            raise ModelError(
                f"Weights cannot share {self.sharing.n_clusters} values: "
                f"{'; '.join(f'{kernel.name}: {why}' for kernel, why in bad[:6])}."
            )
        self._skipped = [(kernel.name, why) for kernel, why in bad]
        return [kernel for kernel in found if kernel not in [k for k, _ in bad]]

    def _require_alike_trained(self, frozen: set[int]) -> None:
        still = [kernel.name for kernel in self._kernels if id(kernel.variable) in frozen]
        if self.sharing.per == "model" and 0 < len(still) < len(self._kernels):
            raise ModelError(
                f"Frozen weights cannot follow the values that they would share with others: {', '.join(still[:6])}. "
                "Give per='layer', or leave them out with frozen=False."
            )

    def _share(self, groups: list[tuple]) -> None:
        """Takes groups and signs, one pair a kernel, and gives each weight the value of its group."""
        errors = []
        for codebook in self._codebooks:
            for tied in codebook.tied:
                tied.set(*groups.pop(0))
            errors += codebook.unite()
        self._errors = self._errors or errors

    def _shared(self):
        """Opened around each call of the model."""
        self._called = True
        values = [pair for one in self._codebooks for pair in zip(one.variables, one.read(), strict=True)]
        assert self._call is not None  # `_begin` has opened it
        return replaced(self._call.model, values)

    def _advance(self, before: int, now: int) -> None:
        if self._tested:
            return
        self._tested = True
        if not (self._called and all(codebook.holds() for codebook in self._codebooks)):
            raise ModelError(
                "The last step did not sum gradients over shared weights: either it was traced before the model was "
                "attached (call attach(model) first, then define the tf.function), or it does not call the model."
            )

    def _end(self, model: keras.Model) -> ClusterReport:
        back = [codebook for codebook in self._codebooks if not codebook.holds()]
        if back:
            self._notes.append(
                f"Weights of {len(back)} codebooks were changed at the end of training (EarlyStopping, moving averages "
                "or set_weights): each group was set to its mean."
            )
        for codebook in back:
            codebook.unite()
        rows = []
        for kernel, error in zip(self._kernels, self._errors, strict=True):
            values, counts = codebooks.distinct(lent(kernel.variable))
            size, zeros = int(counts.sum()), int(counts[values == 0].sum())
            shape, bits = tuple(kernel.variable.shape), codebooks.entropy_of_counts(counts)
            rows.append(SharedWeight(kernel.name, shape, size, len(values), zeros, bits, error))
        self._saved = {kernel.name: one.groups() for kernel, one in zip(self._kernels, self._tied, strict=True)}
        self._let_go()
        settings = (self.sharing.kind, self.sharing.per, self.sharing.n_clusters)
        return ClusterReport(*settings, self.steps, tuple(rows), tuple(self._skipped), tuple(self._notes))

    def _let_go(self) -> None:
        for codebook in self._codebooks:
            codebook.remove()
        self._codebooks = []
        if self._call is not None:
            self._call.release(self._shared)

    def _belongs(self, state: dict[str, np.ndarray]) -> bool:
        for (group, sign), tied in zip(self._groups_of(state), self._tied, strict=True):
            tied.set(group, sign)
        return all(codebook.holds() for codebook in self._codebooks)

    @property
    def _tied(self) -> list[Tied]:
        return [tied for codebook in self._codebooks for tied in codebook.tied]

    def _groups_of(self, state: dict[str, np.ndarray]) -> list[tuple]:
        """Groups and signs of each kernel, in a state."""
        shapes = [tuple(state.get(f"group_{i}", np.zeros(0)).shape) for i in range(len(self._kernels))]
        if shapes != [tuple(k.variable.shape) for k in self._kernels] or f"group_{len(self._kernels)}" in state:
            raise ModelError("The file was written while other weights were shared. Give the same `layers` as then.")
        return [(state[f"group_{i}"], state.get(f"sign_{i}")) for i in range(len(self._kernels))]

    def _state(self) -> dict[str, np.ndarray]:
        state = {"errors": np.asarray(self._errors)}
        for i, tied in enumerate(self._tied):
            group, sign = tied.groups()
            state[f"group_{i}"] = group.astype(np.min_scalar_type(tied.size))
            if tied.sign is not None:
                state[f"sign_{i}"] = np.asarray(sign)
        return state

    def _restore(self, state: dict[str, np.ndarray]) -> None:
        groups = self._groups_of(state)
        self._errors = [float(error) for error in state["errors"]]
        self._share(groups)
