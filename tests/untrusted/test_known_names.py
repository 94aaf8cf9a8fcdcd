"""Whatever the packages write of their own classes is known, but for what runs code or reads files."""

import keras
import pytest
import tf_keras

from tfstruct.errors import ModelError
from tfstruct.untrusted.descriptions import refuse_code

CODE_OR_FILES = {"Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"}
ABSTRACT = {"Layer", "Wrapper", "InputSpec", "Initializer", "Regularizer", "Constraint", "Loss", "Metric", "Optimizer"}
SPACES = ("layers", "initializers", "regularizers", "constraints", "losses", "metrics", "optimizers")


def refused(config, **options) -> bool:
    try:
        refuse_code(config, "file", **options)
    except ModelError:
        return True
    return False


def classes(package):
    found = [vars(getattr(package, space)).values() for space in SPACES]
    return {cls for values in found for cls in values if isinstance(cls, type)}


def test_what_keras_3_writes():
    from keras.src.saving.serialization_lib import serialize_with_public_class

    written = {cls.__name__: serialize_with_public_class(cls, {}) for cls in classes(keras)}
    found = {name for name, config in written.items() if refused(config)}
    assert found - ABSTRACT == CODE_OR_FILES
    assert len(written) > 200


def test_what_keras_2_writes():
    from tf_keras.src.saving.serialization_lib import serialize_with_public_class

    written = {cls.__name__: serialize_with_public_class(cls, {}) for cls in classes(tf_keras)}
    found = {name for name, config in written.items() if refused(config, keras2=True)}
    code = {"Lambda", "DenseFeatures", "AbstractRNNCell"}
    assert found - ABSTRACT == code
    for name in written.keys() - found:  # older files give no module
        refuse_code({"class_name": name, "config": {}}, "file", keras2=True)


@pytest.mark.parametrize("package", [keras, tf_keras])
def test_functions_of_keras(package):
    for space in ("activations", "losses", "metrics"):
        for name, value in vars(getattr(package, space)).items():
            lookup = name in ("get", "serialize", "deserialize")
            if callable(value) and not isinstance(value, type) and not name.startswith("_"):
                config = {"module": "builtins", "class_name": "function", "config": name, "registered_name": "function"}
                assert refused(config, keras2=package is tf_keras) == lookup, name


def test_operations_of_keras_3():
    import inspect

    from keras.src.ops import image, linalg, math, nn
    from keras.src.ops import numpy as ops

    for module in (ops, nn, math, image, linalg):
        for name, cls in vars(module).items():
            if inspect.isclass(cls) and issubclass(cls, keras.Operation) and cls is not keras.Operation:
                refuse_code(
                    {"module": cls.__module__, "class_name": name, "config": {}, "registered_name": name}, "file"
                )
