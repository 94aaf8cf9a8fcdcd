"""All that this package uses of Keras, tf_keras, TFMOT and TensorFlow without their promise to keep it: private names.

A new version of them breaks these files, and no others.

`graph_nodes.py`: a functional model as calls of operations. `layer_parts.py`: what layers are made of and compute with.
`operation_types.py`: classes behind `keras.ops`, and others without a public name. `optimizers.py`: an optimizer's
variables and steps. `training.py`: what a model was compiled with, and the steps that Keras compiled for it.
`recorded_calls.py`: what a layer's `call` does, as it happens.
`replacing.py`: attributes replaced for as long as a `with` lasts. `saving.py`: what Keras's files take along.
`keras2.py`, `tensorflow.py`: the same for tf_keras with TFMOT, and for TensorFlow.
"""
