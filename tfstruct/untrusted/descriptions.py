"""The description of a Keras model, judged as data: it names only what is known to compute, and no file."""

from collections.abc import Container, Iterator
from typing import Any

from tfstruct.errors import ModelError
from tfstruct.untrusted import known_names
from tfstruct.untrusted.known_names import Known


class MissingCode(ModelError):
    """A class or function that a description names is not here; nothing says that it would do harm."""


TRUST = "Use --trust (load(..., trust=True)) if you know where the file comes from."
# Values that both loaders make of plain data.
_DATA = {
    "__tensor__",
    "__numpy__",
    "__bytes__",
    "__ellipsis__",
    "__slice__",
    "__tuple__",
    "__keras_tensor__",
    "TensorShape",
}
_TYPE_SPECS = ("tf.TensorSpec", "tf.RaggedTensorSpec", "tf.SparseTensorSpec")
_LAMBDAS = ("TFOpLambda", "SlicingOpLambda", "TensorFlowOpLayer", "ClassMethod", "InstanceMethod", "InstanceProperty")
# Arguments that hold a list, or else the name of a file that is read.
_FILES = ("vocabulary", "idf_weights")
_NAMED = ("activation", "_initializer", "_regularizer", "_constraint")


def refuse_code(config, file, *, keras2: bool = False, revived: bool = False, functions: Container[str] = ()) -> None:
    """Refuses a description that could run code, read a file, or name anything that is not known to compute.

    Known are the classes and functions of `known_names` and what the user registered; everything else is refused, at
    whatever depth it stands, before a loader sees it.

    Args:
        config: the description, parsed JSON.
        file: its file, for messages.
        keras2: whether `tf_keras` loads it, which keeps a list of its own.
        revived: whether a class that the loader does not know is taken from a SavedModel's graph, which is no code.
        functions: the TensorFlow functions that layers of Keras 2 may name.

    Raises:
        ModelError: names the file, the layer, what is refused and the remedy.
        MissingCode: what is named is not registered, or has no counterpart here.
    """
    judge = _Judge(known_names.keras2() if keras2 else known_names.keras3(), file, keras2, revived, functions)
    for part, layer in _named_parts(config):
        judge.part(part, layer)


def parts(config) -> Iterator[dict]:
    """All dicts in a description, however deep."""
    return (part for part, _ in _named_parts(config))


def _named_parts(config) -> Iterator[tuple[dict, str]]:
    """Each dict with the name of the layer it belongs to; a loop, as a hostile file may nest deeper than the stack."""
    todo: list[tuple[Any, str]] = [(config, "")]
    while todo:
        part, layer = todo.pop()
        if isinstance(part, dict):
            inner = part.get("config")
            name = inner.get("name") if isinstance(inner, dict) else None
            layer = name if isinstance(name, str) and "class_name" in part else layer
            yield part, layer
            todo.extend((value, layer) for value in part.values())
        elif isinstance(part, list):
            todo.extend((value, layer) for value in part)


class _Judge:
    def __init__(self, known: Known, file, keras2: bool, revived: bool, functions: Container[str]):
        self.known, self.file, self.keras2, self.revived, self.functions = known, file, keras2, revived, functions

    def part(self, part: dict, layer: str) -> None:
        for key, value in part.items():
            if not isinstance(key, str):
                continue
            if key in _FILES and isinstance(value, str):
                self._refuse(f"the layer {layer!r}, which reads the file {value!r} ({key})", TRUST)
            if key.endswith("_fn_type") or (key == "function_type" and value != "function"):
                self._refuse(f"code as the function of the layer {layer!r} ({key})", TRUST)
            if key.endswith(_NAMED) and isinstance(value, str):
                self._string(key, value, layer)
        if "class_name" in part:
            self._reference(part, layer)

    def _string(self, key: str, value: str, layer: str) -> None:
        known = self.known
        if value in known.native and value not in known.strings and not self._registered(value):
            self._refuse(f"the layer {layer!r} with {key}={value!r}, which is no {key.rpartition('_')[2]}", TRUST)

    def _reference(self, part: dict, layer: str) -> None:
        kind, config = part["class_name"], part.get("config")
        # A class may be named with what stands before it: "keras.layers>Lambda", "layers.Lambda".
        plain = kind.replace(">", ".").rpartition(".")[2] if isinstance(kind, str) else kind
        if plain == "Lambda":
            name = config.get("name", "") if isinstance(config, dict) else ""
            self._refuse(f"the Lambda layer {name!r}, which runs code from the file", TRUST)
        if kind == "__lambda__" or (kind == "function" and not isinstance(config, str)):
            self._refuse(f"a serialized function of the layer {layer!r}, which would run on loading", TRUST)
        if plain in ("TFSMLayer", "GraphLayer"):
            folder = config.get("filepath") if isinstance(config, dict) else None
            self._refuse(f"the layer {layer!r} ({plain}), which loads the SavedModel {folder!r}", TRUST)
        if plain in _LAMBDAS:
            self._tensorflow_function(layer, plain, config)
        allowed = self._function(part) if kind == "function" else self._class(part)
        if not allowed:
            self._refuse_name(kind, config, part.get("module"), layer)

    def _refuse_name(self, kind, config, module, layer: str) -> None:
        what, name = ("function", config) if kind == "function" else ("class", kind)
        of = f" for the layer {layer!r}" if layer else ""
        if isinstance(name, str) and name in self.known.native and (module is None or self._is_keras(module)):
            self._refuse(f"the {what} {name}{of}, which is none of those that only compute", TRUST)
        missing = f": {name!r} is not registered" if module is None else f" {module}.{name}, which is not registered"
        missing += ". Import the module that registers it (--import MODULE)."
        place = f" It stands in the layer {layer!r}." if layer else ""
        raise MissingCode(f"{self.file} needs the custom {what}{missing}{place}")

    def _is_keras(self, module) -> bool:
        return isinstance(module, str) and module.split(".")[0] in ("keras", "tf_keras")

    def _class(self, part: dict) -> bool:
        kind, module = part["class_name"], part.get("module")
        if not isinstance(kind, str) or not isinstance(module, str | None):
            return False
        if kind in _DATA or (kind == "TypeSpec" and part.get("type_spec") in _TYPE_SPECS):
            return True
        known, own_name = self.known, part.get("registered_name", kind)
        if own_name and self._registered(own_name):
            # A loader of older files looks for the bare name.
            return kind in known.names or kind not in known.native or self._registered(kind)
        if module is None:
            return kind in known.names or self._registered(kind) or (self.revived and kind not in known.native)
        return (self._module(module), kind) in known.classes and own_name in (None, kind)

    def _function(self, part: dict) -> bool:
        name, module, own_name = part["config"], part.get("module"), part.get("registered_name")
        if own_name not in (None, "function", name) and not self._registered(own_name):
            return False
        if self._registered(name):
            return True
        if not self.keras2 and module == "builtins" and ">" not in name:
            import keras

            # Keras 3.6 wrote the functions that a user registered without their package.
            if any(full.endswith(f">{name}") for full in keras.saving.get_custom_objects()):
                return True
        return isinstance(module, str) and (self._module(module), name) in self.known.functions

    def _module(self, module: str) -> str:
        return known_names.normal(module) if self.keras2 else module

    def _registered(self, name) -> bool:
        return isinstance(name, str) and self.known.registered(name) is not None

    def _tensorflow_function(self, layer: str, kind: str, config) -> None:
        """A file may name any function of TensorFlow, `io.write_file` too; only those with a counterpart are taken."""
        function = config.get("function", "") if isinstance(config, dict) else ""
        known = isinstance(function, str) and function in self.functions
        if kind not in ("TFOpLambda", "SlicingOpLambda") or not known:
            raise MissingCode(
                f"{self.file} holds the layer {layer!r}, the TensorFlow function {function or kind!r}, which has no "
                "counterpart in Keras 3 here. Replace it by a Keras layer in tf_keras, or save it as a SavedModel."
            )

    def _refuse(self, what: str, remedy: str) -> None:
        raise ModelError(f"{self.file} holds {what}. {remedy}")
