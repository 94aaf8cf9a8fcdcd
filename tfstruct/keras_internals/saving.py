"""What Keras's files take along."""

from keras.src.saving.keras_saveable import KerasSaveable


class SavedPart(KerasSaveable):
    """An attribute of a model whose state Keras's files take along, by `save_own_variables` and `load_own_variables`.

    Keras finds it among the attributes of the model. It need not track it: then it is no part of the model otherwise.
    """

    def _obj_type(self):
        return "Loss"  # the plainest kind that Keras's files know
