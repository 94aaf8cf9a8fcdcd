"""Models of Keras 2 and of TFMOT as Keras 3 models, and any model file without running code from it.

- `loading.py`: `load`, `read`: whatever it is, to a Keras 3 model and what its source knew besides
- `files.py`: files opened without running code: a `keras.Model`, or a `tf_keras` one
- `savedmodel.py`: folders: Keras 2's layers rebuilt, any other signature as the graph it is
- `conversion.py`: a `tf_keras` model, walked call by call, as a Keras 3 model: nested, shared, several inputs
- `layers.py`: one rule a layer type whose configuration differs
- `operators.py`: TensorFlow functions in a Keras 2 model as `keras.ops`; what is not in its table is never called
- `tfmot.py`: TFMOT's wrappers taken off; masks, centroids and trained ranges kept
"""

from tfstruct import lazy

__getattr__, __dir__, __all__ = lazy.names(
    __name__,
    {"Legacy": "loading", "check_path": "files", "explain": "loading", "load": "loading", "read": "loading"},
)
