"""Random changes to training data, as `tf.data` pipelines over Keras's layers. The names load on first use.

- `draws.py`: random numbers made from one seed without a variable; Keras's layers drawing from it
- `pipeline.py`, `gallery.py`: `Pipeline`: a dataset to one with changed batches; samples of it as a picture
- `mixing.py`: MixUp and CutMix, with labels and sample weights
- `pictures.py`, `sounds.py`, `tokens.py`, `series.py`: presets for images, sound, text, series
- `movement.py`: shifts and warps of time
"""

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
