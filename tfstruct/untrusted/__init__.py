"""Files from elsewhere, judged as data before anything is built or loaded from them.

- `descriptions.py`: the description of a Keras model, judged as data: it names only what is known to compute, and no
  file
- `graphs.py`: A SavedModel's graph, judged before TensorFlow loads it: it holds only operators that compute
- `hdf5.py`: an HDF5 file, looked through before a loader reads it: it holds its own values, and no more than its size
  allows
- `bounded.py`: small files from elsewhere, read as far as they may reach
- `json_text.py`: JSON of files from elsewhere: its size is checked before it becomes objects, and it fails in one way
- `keras_archive.py`: A `.keras` archive, looked through before a loader unpacks it
- `known_names.py`: the classes and functions that the description of a model may name: those that only compute
- `toml_text.py`: TOML of files from elsewhere: bounds before it becomes objects, and one way to fail
"""
