"""How much a channel matters, by what it does to data."""

import keras
import numpy as np
import tensorflow as tf

from tfstruct.analyze.inference import batches_for
from tfstruct.analyze.losses import slices
from tfstruct.analyze.weight_criteria import Member, is_kernel
from tfstruct.graph import Call, Each, Graph, Out
from tfstruct.graph.call import Channels
from tfstruct.graph.sizes import fixed_batch
from tfstruct.graph.trace import Body
from tfstruct.keras_internals.graph_nodes import inputs_and_masks, takes_training
from tfstruct.keras_internals.layer_parts import attention_projections, stored_weight
from tfstruct.samples import Samples

ATTENTION = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)
BINS = 32  # of the histogram behind the entropy


def run(graph: Graph, inputs: list, visit, training: bool | None = None) -> None:
    """Runs the model's operations one by one; `visit(call, outputs)` sees every result, and may put another in its
    place. `training` is given to the layers that take it, unless None."""
    calls = iter(graph.calls)

    def body(one: Body, values):
        known = {id(x): y for x, y in zip(one.functional.inputs, values, strict=True)}
        for node, step in one.steps:
            if isinstance(step, Body):
                given, _ = inputs_and_masks(node.input_tensors, step.functional)
                outputs = body(step, [known[id(x)] for x in given])
            else:
                call = next(calls)
                args, kwargs = node.arguments.fill_in(known)
                if training is not None and takes_training(call.op):
                    kwargs = {**kwargs, "training": training}
                outputs = keras.tree.flatten(call.op(*args, **kwargs))
                visit(call, outputs)
            known.update({id(x): y for x, y in zip(node.outputs, outputs, strict=True)})
        return [known[id(x)] for x in one.functional.outputs]

    body(graph.body, [tf.convert_to_tensor(x) for x in inputs])


def watched(graph: Graph) -> list[tuple[Call, int, int, np.ndarray, np.ndarray]]:
    """Where the channels that a call makes are looked at: behind the batch norm and the activation that follow it.

    From the maker's output on, operations that work in place are followed as long as each is the only reader.

    Returns:
        (call, output, axis, labels, positions made) each: the positions on that axis of the call's output.
    """
    readers: dict[int, list[Call | None]] = {}
    for call in graph.calls:
        for tensor in call.inputs:
            readers.setdefault(tensor.key, []).append(call)
    for tensor in graph.outputs:
        readers.setdefault(tensor.key, []).append(None)
    found, seen = [], set()
    for maker in graph.calls:
        made = np.concatenate([*maker.makes.values(), np.zeros(0, int)]).astype(int)
        if not len(made):
            continue
        for i, _ in enumerate(maker.outputs):
            call, place = maker, i
            while True:
                after = readers.get(call.outputs[place].key, [])
                if len(after) != 1 or after[0] is None or not after[0].in_place or len(after[0].outputs) != 1:
                    break
                call, place = after[0], 0
            for axis, labels in list(enumerate(call.outputs[place].axes))[1:]:
                if labels is None:
                    continue
                positions = np.flatnonzero(np.isin(labels, made))
                if len(positions) and (call.outputs[place].key, axis) not in seen:
                    seen.add((call.outputs[place].key, axis))
                    found.append((call, place, axis, labels, positions))
    return found


def projections(graph: Graph) -> list[tuple[int, keras.layers.Layer, list[np.ndarray]]]:
    """What attention layers make inside: (key of the tensor, the layer that projects it, the labels of the last axes of
    the result), for queries, keys and values: their heads and the widths inside them."""
    found = []
    for call in graph.calls:
        if not isinstance(call.op, ATTENTION):
            continue
        for name, dense in attention_projections(call.op).items():
            tensor = call.argument(name)
            tensor = call.argument("value") if name == "key" and tensor is None else tensor
            slot = graph.slot_of.get(id(stored_weight(dense)))
            if isinstance(tensor, Channels) and slot is not None:
                ends = [axis.labels for axis in slot.axes if isinstance(axis, Out) and axis.labels is not None]
                found.append((tensor.key, dense, ends))
    return found


def _per_sample(kind: str, value, axis: int):
    """For each sample and channel: mean absolute value, share of zeros, or mean. Shape (samples, channels)."""
    value = tf.cast(value, tf.float32)
    value = {"activation": tf.abs, "apoz": lambda x: tf.cast(x == 0, tf.float32), "entropy": tf.identity}[kind](value)
    return tf.reduce_mean(value, [i for i in range(1, len(value.shape)) if i != axis])


def activation_members(graph: Graph, kind: str, samples: Samples, batch_size: int = 32) -> list[Member]:
    """Statistics of the channels on data.

    - `activation`: mean of |a| over samples and positions.
    - `apoz`: 1 - share of zeros (APoZ, Eq. 1, arXiv:1607.03250).
    - `entropy`: -sum p log p of the samples' mean activations, in a histogram of 32 bins from the smallest to the
      largest (Sec. 3.2, arXiv:1706.05791).
    """
    places, inside = watched(graph), projections(graph)
    needed = {key for key, *_ in inside}

    @tf.function(reduce_retracing=True)
    def step(batch):
        results = {}
        values = {x.key: y for x, y in zip(graph.body.inputs, batch, strict=True)}

        def visit(call, outputs):
            values.update({x.key: y for x, y in zip(call.outputs, outputs, strict=True) if x.key in needed})
            for i, (at, place, axis, _, _) in enumerate(places):
                if at is call:
                    results[i] = _per_sample(kind, outputs[place], axis)

        run(graph, batch, visit)
        found = [results[i] for i in range(len(places))]
        for key, dense, ends in inside:
            value = dense(values[key])
            found += [_per_sample(kind, value, len(value.shape) - len(ends) + i) for i in range(len(ends))]
        return found

    parts = [[r.numpy() for r in step(b.inputs)] for b in batches_for(graph.model, samples, batch_size)]
    members = []
    looked_at = [(labels, positions) for *_, labels, positions in places]
    looked_at += [(labels, np.arange(len(labels))) for _, _, ends in inside for labels in ends]
    for i, (labels, positions) in enumerate(looked_at):
        seen = np.concatenate([part[i] for part in parts]).astype(np.float64)[:, positions]
        if kind == "entropy":
            value = _entropy(seen)
        else:
            value = seen.mean(axis=0) if kind == "activation" else 1 - seen.mean(axis=0)
        members.append((labels[positions], value))
    return members


def _entropy(seen: np.ndarray) -> np.ndarray:
    low, high = seen.min(axis=0), seen.max(axis=0)
    width = np.where(high > low, high - low, 1)
    places = np.minimum(((seen - low) / width * BINS).astype(int), BINS - 1)
    counts = np.zeros((BINS, seen.shape[1]))
    np.add.at(counts, (places, np.arange(seen.shape[1])[None]), 1)
    p = counts / len(seen)
    return -(p * np.log(np.where(p > 0, p, 1))).sum(axis=0)


def _weights(graph: Graph, kernels_only: bool):
    """(variable, axis, labels) of what makes or carries channels and can be differentiated."""
    found = []
    for slot in graph.slots:
        if not slot.variable.dtype.startswith(("float", "bfloat")) or "moving" in slot.variable.name:
            continue
        if kernels_only and not is_kernel(slot.variable):
            continue
        for axis, along in enumerate(slot.axes):
            if isinstance(along, Out | Each):
                found.append((slot.variable, axis, along.labels))
    return found


def _along(value, axis: int):
    return tf.reduce_sum(value, [i for i in range(len(value.shape)) if i != axis])


def gradient_members(graph: Graph, samples: Samples, loss):
    """For each sample in turn, the members `sum of w * dL/dw` over the weights of each channel: its effect on the
    loss, to first order (Eq. 6, arXiv:1906.10771). Kernels, biases, gamma and beta; batch norm as at inference."""
    model = graph.model
    places = _weights(graph, kernels_only=False)
    variables = list({id(v): v for v, _, _ in places}.values())

    @tf.function(reduce_retracing=True)
    def step(batch, label):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([v.value for v in variables])
            value = loss(label, model(structured(graph, batch), training=False))
        slopes = tape.gradient(value, [v.value for v in variables], unconnected_gradients="zero")
        product = {
            id(v): tf.cast(v.value * tf.convert_to_tensor(g), tf.float32)
            for v, g in zip(variables, slopes, strict=True)
        }
        return [_along(product[id(v)], axis) for v, axis, _ in places]

    for one in samples.batches(1):
        values = step(one.inputs, one.labels)
        yield [(labels, v.numpy().astype(float)) for (_, _, labels), v in zip(places, values, strict=True)]


def hessian_members(graph: Graph, flat, y, loss, probes: int, seed: int, batch_size: int = 32) -> list[Member]:
    """`1/2 sum of w^2 * h` over the kernel weights of each channel, `h = E[z * Hz]`, z of random signs: Hutchinson's
    estimate of the Hessian's diagonal, of the mean loss over the data (optimal brain damage)."""
    model = graph.model
    places, batch_size = _weights(graph, kernels_only=True), fixed_batch(graph.model) or batch_size
    variables = list({id(v): v for v, _, _ in places}.values())
    tensors = [v.value for v in variables]

    @tf.function(reduce_retracing=True)
    def step(batch, label, signs):
        with tf.GradientTape(watch_accessed_variables=False) as outer:
            outer.watch(tensors)
            with tf.GradientTape(watch_accessed_variables=False) as inner:
                inner.watch(tensors)
                value = loss(label, model(structured(graph, batch), training=False))
            slopes = inner.gradient(value, tensors, unconnected_gradients="zero")
            along = tf.add_n([tf.reduce_sum(tf.convert_to_tensor(g) * z) for g, z in zip(slopes, signs, strict=True)])
        curved = outer.gradient(along, tensors, unconnected_gradients="zero")
        return [tf.convert_to_tensor(c) * z for c, z in zip(curved, signs, strict=True)]

    rng = np.random.default_rng(seed)
    count = len(flat[0])
    diagonal = [np.zeros(v.shape) for v in variables]
    for _ in range(probes):
        signs = [tf.constant(rng.choice([-1.0, 1.0], v.shape), v.dtype) for v in variables]
        for s in slices(count, batch_size):
            found = step([v[s] for v in flat], keras.tree.map_structure(lambda a, s=s: a[s], y), signs)
            for total, part in zip(diagonal, found, strict=True):
                total += part.numpy().astype(float) * (s.stop - s.start) / (count * probes)
    by_variable = dict(zip(map(id, variables), diagonal, strict=True))
    members = []
    for v, axis, labels in places:
        value = 0.5 * keras.ops.convert_to_numpy(v).astype(float) ** 2 * by_variable[id(v)]
        members.append((labels, value.sum(axis=tuple(i for i in range(value.ndim) if i != axis))))
    return members


def structured(graph: Graph, flat):
    """A flat list of inputs in the structure the model takes."""
    functional = graph.body.functional
    by_tensor = {id(t): v for t, v in zip(functional.inputs, flat, strict=True)}
    return keras.tree.map_structure(lambda t: by_tensor[id(t)], functional.input)
