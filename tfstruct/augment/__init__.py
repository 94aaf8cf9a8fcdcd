"""Random changes to training data, as `tf.data` pipelines over Keras's layers. The names load on first use."""

from tfstruct import lazy

__getattr__, __dir__, __all__ = lazy.names(
    __name__,
    {
        "Choice": "pictures",
        "Draws": "draws",
        "Mix": "mixing",
        "Pipeline": "pipeline",
        "audio": "sounds",
        "images": "pictures",
        "sequences": "series",
        "spectrograms": "sounds",
        "text": "tokens",
    },
)
