"""`FromScratch`: the network without what it has learned."""

import dataclasses

from tfstruct.compression.outcome import Outcome
from tfstruct.compression.step_context import StepContext
from tfstruct.compression.steps.step import Step
from tfstruct.graph.copying import untrained


@dataclasses.dataclass(frozen=True, kw_only=True)
class FromScratch(Step):
    """Draws the trainable weights anew, by the initializers of their layers, and trains the network, taught by the
    original: what a network of that size is worth without the weights of the larger one (Liu et al., "Rethinking the
    Value of Network Pruning", arXiv:1810.05270).

    Frozen weights stay, as do kernels whose initializer makes a single value, such as zeros. Without epochs nothing is
    drawn.

    Attributes:
        rate: the highest learning rate; by default that of the settings.
    """

    kind = "from_scratch"
    share = 0.7

    rate: float | None = None

    def run(self, context: StepContext) -> Outcome:
        name = context.model.name
        if not self.epochs:
            return Outcome(context.model, skipped=[(name, "there are no epochs to train it in")])
        made, kept = untrained(context.model)
        context.recalibrate(made)
        history = context.train(made, self.epochs, rate=self.rate)
        skipped = [(path, "its initializer makes a single value: the trained ones stay") for path in kept]
        return Outcome(made, [(name, "weights drawn anew")], skipped, {}, history)
