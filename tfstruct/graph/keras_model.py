"""What a user gives as a model: the one place that says whether it is one, and what to do where it has no graph."""

import os

import keras

from tfstruct.errors import ModelError


def require_model(model, what: str = "a keras.Model") -> keras.Model:
    """The model; anything but a Keras 3 model is refused.

    Args:
        what: what is expected.

    Raises:
        ModelError: with what was received and, as far as that can be known, what makes a Keras 3 model of it.
    """
    if isinstance(model, keras.Model):
        return model
    raise ModelError(f"Expected {what}. Received: {_received(model)}")


def subclassed(model: keras.Model) -> ModelError:
    """What is said where a model's own `call` hides its graph: the two lines that open it."""
    shapes = (model.get_build_config() or {}).get("input_shape") if model.built else None
    example = keras.tree.map_shape_structure(lambda shape: (None, *shape[1:]), shapes or (None, 224, 224, 3))
    return ModelError(
        f"`{model.name}` is a subclassed model ({type(model).__name__}): give `inputs`, the shapes (with the batch "
        "axis first) or samples that it is called with, as its graph is hidden in its `call`; a functional model is "
        "made of it, on the same variables:\n"
        f"    model = tfstruct.surgery.open_layers(model, inputs={example}).model\n"
        "    tfstruct.explain(model)"
    )


def _received(model) -> str:
    roots = {kind.__module__.split(".")[0] for kind in type(model).__mro__}
    name = type(model).__name__
    if "tf_keras" in roots:
        called = f" `{model.name}`" if isinstance(getattr(model, "name", None), str) else ""
        return (
            f"{name}{called} of tf_keras (Keras 2). tfstruct.legacy.load(model) makes a Keras 3 model of it, which "
            "everything here takes."
        )
    if isinstance(model, str | os.PathLike):
        return f"the path {os.fspath(model)!r}. Load it first: tfstruct.legacy.load(path), or keras.models.load_model."
    if "torch" in roots:
        return f"{name} of torch. Only Keras 3 models on TensorFlow are taken: build the model in Keras."
    if isinstance(model, type):
        return f"the class {model.__name__}. Give an instance of it."
    if model is None:
        return "None."
    if isinstance(getattr(model, "model", None), keras.Model):
        return f"{name}. Give the model in it, which is its attribute `model`."
    return f"{name}."
