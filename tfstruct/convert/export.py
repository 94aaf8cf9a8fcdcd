"""A Keras model written as a SavedModel, with the way back from graph names to Keras layers."""

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

import keras
import tensorflow as tf

from tfstruct.convert import kept_biases, rewrites
from tfstruct.convert.converter import ABOUT_THE_FOLDER
from tfstruct.convert.scopes import layer_at
from tfstruct.errors import ConversionError, ModelError, RecipeError
from tfstruct.graph.endings import activation_of
from tfstruct.graph.keras_model import require_model
from tfstruct.graph.layer_tree import intercepted, layer_paths
from tfstruct.graph.opening.custom import is_custom
from tfstruct.graph.operation_traits import function_traits
from tfstruct.keras_internals.graph_nodes import names_of
from tfstruct.samples import TensorSpec
from tfstruct.samples.ports import Arguments, Ports, unique_names

SIGNATURE = "serve"
_VIEWS = ("Reshape", "Squeeze")


@dataclasses.dataclass(frozen=True)
class Signature:
    """How to call a Keras model by names.

    Attributes:
        inputs: the inputs, in the order the model flattens them.
        batch: the batch size that the model itself fixes; None where it leaves it open.
        call: `{name: batch of samples} -> {name: batch of outputs}`, at inference; layers that would draw random
            numbers there do not.
        traceable: whether it is made of TensorFlow's operations.
        sizes: shape of one sample by input name, where `inputs` leave sizes open: that of random samples.
    """

    inputs: tuple[TensorSpec, ...]
    batch: int | None
    call: Callable[[Mapping[str, tf.Tensor]], dict[str, tf.Tensor]]
    traceable: bool = True
    sizes: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Exported:
    """A SavedModel on disk and where its graph came from.

    Attributes:
        directory: the SavedModel.
        inputs: the inputs with the shapes that the file will have.
        outputs: the names of the outputs.
        scopes: name scope of the graph -> path of the Keras layer, in the order in which the calls end.
        output_layers: name of an output -> path of the layer that makes it.
        results: path of a custom layer -> the nodes of what it returns, and of that before it was moved.
        batch: the batch size of the graph; None is open.
        rewrites: a line for every layer that was traced in another form.
    """

    directory: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    scopes: Mapping[str, str]
    output_layers: Mapping[str, str]
    results: Mapping[str, frozenset[str]]
    batch: int | None
    rewrites: tuple[str, ...] = ()


def signature_of(model: keras.Model, input_shapes: Mapping[str, tuple[int, ...]] | None = None) -> Signature:
    """Reads names, shapes and dtypes of a model's inputs; `input_shapes` fills in dimensions left open."""
    require_model(model)
    ports = Ports(model)
    inputs = _with_shapes(ports.inputs, input_shapes or {})
    paths = layer_paths(model)

    def call(batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        packed = ports.arranged(batch)
        arguments = packed if isinstance(packed, Arguments) else [packed]
        with rewrites.applied(paths, [rewrites.DRAW_NOTHING]):
            outputs = model(*arguments, training=False)
        return _named_outputs(model, outputs)

    return Signature(tuple(inputs), ports.batch, call)


def export(
    model: keras.Model,
    directory: str,
    batch_size: int | None = 1,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    *,
    rewrite: bool = False,
) -> Exported:
    """Writes `model` as a SavedModel for inference, computing in float32, into `directory`.

    While the graph is traced every layer's `call` notes the name scope it runs in, so that a name in the
    graph leads back to the Keras layer; with `rewrite`, layers without integer kernels are traced in their form of
    `rewrites`. Afterwards the model is as it was.
    """
    signature = signature_of(model, input_shapes)
    if signature.batch is not None:
        if batch_size not in (1, signature.batch):
            raise RecipeError(
                f"`batch_size` is {batch_size}, but the model's inputs fix the batch size at {signature.batch}. "
                "Leave `batch_size` out or rebuild the model."
            )
        batch_size = signature.batch
    specs = [tf.TensorSpec((batch_size, *s.shape), s.dtype, name=s.name) for s in signature.inputs]

    @tf.function(autograph=False)
    def serve(*flat):
        outputs = signature.call({s.name: x for s, x in zip(signature.inputs, flat, strict=True)})
        kept_biases.mark(tf.compat.v1.get_default_graph())
        return outputs

    try:
        changes = [*rewrites.ALWAYS, *(rewrites.ALL if rewrite else ())]
        with (
            _float32_compute(model),
            rewrites.applied(layer_paths(model), changes) as rewritten,
            rewrites.plain_operations(),
            _recorded_scopes(model) as (scopes, results),
        ):
            concrete = serve.get_concrete_function(*specs)
    except (ModelError, RecipeError):
        raise
    except Exception as error:
        raise ConversionError(f"Tracing {model.name!r} failed: {_first_lines(error)}") from error
    _write(concrete, model, directory)
    outputs = concrete.structured_outputs
    layer_of = {name: layer_at(_producer(concrete, name), scopes) for name in outputs}
    return Exported(
        directory,
        signature.inputs,
        tuple(outputs),
        dict(scopes),
        {name: layer for name, layer in layer_of.items() if layer},
        {path: frozenset(nodes) for path, nodes in results.items()},
        batch_size,
        rewritten,
    )


def _holder(concrete, model: keras.Model) -> tf.Module:
    """What a traced function needs in its SavedModel, and no more.

    Keras's own archive traces every layer once more, to look for lookup tables: that takes three times as long.
    """
    holder = tf.Module()
    holder.kept = list(concrete.graph.variables)
    handles = {id(variable.handle) for variable in holder.kept}
    if any(x.dtype == tf.resource and id(x) not in handles for x in concrete.captured_inputs):
        holder.model = model  # with its tables
    return holder


def _with_shapes(specs: Sequence[TensorSpec], shapes: Mapping[str, tuple[int, ...]]) -> list[TensorSpec]:
    names = [s.name for s in specs]
    for name in shapes:
        if name not in names:
            raise RecipeError(f"`input_shapes` names the input {name!r}. The model has {names}.")
    out = []
    for spec in specs:
        shape = tuple(shapes.get(spec.name, spec.shape))
        if not spec.accepts(shape):
            raise RecipeError(f"`input_shapes` gives {shape} for {spec}, which does not fit.")
        out.append(dataclasses.replace(spec, shape=shape))
    return out


def _named_outputs(model: keras.Model, outputs) -> dict[str, tf.Tensor]:
    if isinstance(outputs, Mapping):
        flat = {str(k): v for k, v in outputs.items()}
        if all(tf.is_tensor(v) for v in flat.values()):
            return flat
    tensors = keras.tree.flatten(outputs)
    names = list(getattr(model, "output_names", None) or [])
    if len(names) != len(tensors):
        symbolic = getattr(model, "outputs", None) or []
        names = names_of(symbolic)
    if len(names) != len(tensors):
        names = ["output"] * len(tensors)
    return dict(zip(unique_names(names), tensors, strict=True))


def _producer(concrete, output: str) -> str:
    """Name of the graph node that computes an output, behind the identities that only pass it on."""
    node = concrete.structured_outputs[output]
    name = node.name.split(":")[0]
    op = concrete.graph.get_operation_by_name(name)
    while op.type == "Identity" and op.inputs:
        op = op.inputs[0].op
    return op.name


@contextlib.contextmanager
def _recorded_scopes(model: keras.Model) -> Iterator[tuple[dict[str, str], dict[str, set[str]]]]:
    """While it is open, every call of a layer or operation notes the name scope it runs in, and every call of a custom
    layer, or of one whose activation is several operators, the nodes of its result: the last of them may become part of
    a later operator."""
    scopes: dict[str, str] = {}
    results: dict[str, set[str]] = {}

    def route(path, op, call):
        own = isinstance(op, keras.layers.Layer) and is_custom(op)
        noted = own or function_traits(activation_of(op)).tensors != 1

        def run(*args, **kwargs):
            # Layers open a scope of their own; operations such as `x + 1` do not.
            scope = contextlib.nullcontext() if isinstance(op, keras.layers.Layer) else tf.name_scope(op.name)
            with scope:
                name = tf.get_current_name_scope()
                scopes.setdefault(name, path)
                outputs = call(*args, **kwargs)
                scopes[name] = scopes.pop(name)  # at the end: a layer makes its result after those inside of it
                if noted:
                    results.setdefault(path, set()).update(_nodes_of(outputs))
                return outputs

        return run

    with intercepted(layer_paths(model), route):
        yield scopes, results


def _nodes_of(outputs) -> Iterator[str]:
    """The nodes that make tensors, and those before them whose values they only hand on."""
    for x in keras.tree.flatten(outputs):
        op = getattr(x, "op", None)
        while op is not None:
            yield op.name
            if op.type == "IdentityN":  # of a function with a gradient of its own, such as `silu`
                x = op.inputs[x.value_index]
                op = x.op
            else:
                op = op.inputs[0].op if op.type == "Identity" or op.type in _VIEWS else None


@contextlib.contextmanager
def _float32_compute(model: keras.Model) -> Iterator[None]:
    """Layers with a mixed policy compute in float32 while it is open: the file has no mixed arithmetic."""
    layers = [model, *(op for op in layer_paths(model).values() if isinstance(op, keras.layers.Layer))]
    changed = []
    try:
        for layer in layers:
            policy = layer.dtype_policy
            if policy.compute_dtype in ("float16", "bfloat16", "float64"):
                if policy.variable_dtype != "float32" and layer.weights:
                    raise ModelError(
                        f"The weights of layer {layer.name!r} are {policy.variable_dtype}. Expected float32 (or the "
                        "policy 'mixed_float16'): rebuild the model in float32 and copy the weights."
                    )
                changed.append((layer, policy))
                layer.dtype_policy = "float32"
        yield
    finally:
        for layer, policy in changed:
            layer.dtype_policy = policy


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what TensorFlow tells of the files that it writes: in a notebook it prints that to stdout."""
    thread = threading.get_ident()

    def hears(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR or record.thread != thread

    tf.get_logger().addFilter(hears)
    try:
        yield
    finally:
        tf.get_logger().removeFilter(hears)


def _write(concrete, model: keras.Model, directory: str) -> None:
    try:
        with _quiet():
            tf.saved_model.save(_holder(concrete, model), directory, signatures={SIGNATURE: concrete})
    except OSError:
        raise
    except (tf.errors.ResourceExhaustedError, tf.errors.NotFoundError, tf.errors.UnknownError) as error:
        said = f"{model.name!r} cannot be written to {directory}: {_first_lines(error)}"
        raise ConversionError(f"{said}. {ABOUT_THE_FOLDER}") from error
    except Exception as error:
        raise ConversionError(f"Tracing {model.name!r} failed: {_first_lines(error)}") from error


def _first_lines(error: Exception, lines: int = 3) -> str:
    text = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(text[:lines]) or type(error).__name__
