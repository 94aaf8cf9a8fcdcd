"""A Keras model seen as tensors, operations and coupled channels.

- `labels.py`: channels as labels: united, multiplied, frozen, bound into blocks; resolved into units that can go
- `call.py`: one call of an operation: what a rule reads and what it notes down
- `rules/`: one rule a function, registered by type: how channels pass through it
- `operation_traits.py`, `traits.py`: what Keras's layers and operations do with values: the one table of them, and
  its terms
- `layer_tree.py`: the layers of a model by path; standing in for their calls, one inside the other, by replica
- `kernels.py`: which weights of a model can be sparse, seen as (taps, inputs, outputs)
- `frozen.py`: frozen weights: kernels and groups without them, and how that is said
- `plain_weights.py`: layers that compute with other weights than they show, refused: LoRA, quantized by Keras
- `trace.py`: model to `Graph`: every call with the labels of its tensors
- `groups.py`: the units as groups: who makes them, who reads them, whether they can go; the units that have to stay
- `blocks.py`: block constraints: the smallest sets of units whose removal leaves all blocks equal
- `wiring.py`: who makes and who reads a tensor; layers dropped or made anew
- `contraction.py`: dense layers and convolutions as one thing: taps, channels in, channels out, groups
- `linear_layers.py`: layers linear in their input, as arrays: an affine map by channel put into them
- `channelwise.py`: ways to and from linear layers over what acts on each channel alone
- `opening/`: custom layers and subclassed models as functional ones: `recording.py` notes what a `call` does,
  `comparison.py` tells recordings apart, `assembly.py` makes models of them, `equality.py` compares these with the
  original; `parts.py`: the layers that Keras lacks; `by_itself.py`: opened without being asked; `origin.py`,
  `arguments.py`, `closing.py`: back to the user's class
- `cpu_kernels.py`: which layers TensorFlow's own CPU kernels refuse, where oneDNN is off
- `shuffle.py`: reshape, transpose, reshape back, seen as one permutation of channels
- `configured.py`: a layer or operation once more, with functions of its own
- `copying.py`: `copied`: a model once more
- `sizes.py`: sizes left open: named, filled in, followed into nested models; batches that are fixed
- `new_shapes.py`: initializers, regularizers and constraints of weights that get another shape
- `keras_model.py`: what is said of something that is no Keras 3 model
- `endings.py`: by which function the values of an output were made, and an operation ends
- `differences.py`: how far apart the outputs of two models are, and how much of it rounding explains
- `kinds.py`: which known class an operation computes as, where a user made a subclass of it
- `rebuild.py`: `rebuild`: a graph and the units that stay, to a new model with copied weights; `rewire`: operations
  run in another way
- `replay.py`: `Replay`: all calls of a graph on other inputs, nested models opened
"""

from tfstruct.graph import opening  # noqa: F401  (its layers are registered for files)
from tfstruct.graph.call import Axes, Call, Channels, Each, In, Out
from tfstruct.graph.groups import Group, groups, stay_whole
from tfstruct.graph.labels import FIXED, Units
from tfstruct.graph.opening import open_and_trace
from tfstruct.graph.rebuild import Rewired, in_order, kept_by, rebuild, rewire
from tfstruct.graph.replay import Replay
from tfstruct.graph.rules import is_training_only, rule, training_only
from tfstruct.graph.trace import Graph, fingerprint, trace

__all__ = [
    "FIXED", "Axes", "Call", "Channels", "Each", "Graph", "Group", "In", "Out", "Replay", "Rewired", "Units",
    "fingerprint", "groups", "in_order", "is_training_only", "kept_by", "open_and_trace", "rebuild", "rewire", "rule",
    "stay_whole", "trace", "training_only",
]  # fmt: skip
