"""A user's data, whatever its form, as a stream of checked samples. Every function that takes data reads it here.

Forms of data, for a model with inputs a, b, ... and outputs p, q, ...:

- An array: samples along the first axis. Also anything that NumPy makes an array of.
- A tuple is (x,), (x, y) or (x, y, weights), always and everywhere, as in Keras. x holds all inputs: of one input it is
  an array, of several a dict by their names (or by the keys that the model was built with) or a list or tuple in the
  model's order. So for two inputs (a, b) is an error, which says so; write ([a, b],) or [a, b].
- A dict: the inputs by name, and labels under "y", "labels", "target" or the like.
- A list: of as many arrays as the model has several inputs, these; else of samples or batches, each as below. For one
  input, a list of arrays of several samples is an error: it could be meant for several inputs.
- A `tf.data.Dataset`, a `keras.utils.PyDataset`, a generator or other iterable, or a function that returns one: of
  elements in the forms above, each a sample or a batch, told apart by its shape. A generator can be read once; where
  several passes are needed, it is held in memory.
- Files: a path to an .npy, .npz or .csv file, a TFRecord file or an image; a folder of images (sub-folders are classes:
  sorted, they give the labels 0, 1, ...) or TFRecords; a glob pattern or a list of files.

Labels: an array, or for several outputs a dict by output name, or a tuple or list in the model's order. They stand in
the data, or beside it in `labels=`. Weights are used where training happens, and nowhere else.

How much is taken: all samples, or as many as the function says (`samples=`, `limit=`, `steps=`); not more is read than
is taken. What passes over the data once streams it, batch by batch; what needs all samples at once holds them in
memory, up to 4 GiB. A dataset that repeats without end is refused where its end would be waited for.

Errors are `DataError`s of one line: what was expected, what came at which sample, what to do. TensorFlow loads on use
only.

- `arrays_by_name.py`: whole arrays for inputs that are known by name, such as those of a file
- `csv_files.py`: reads tables of numbers from text: samples in a .csv file, labels in a .csv or .txt file
- `files.py`: opens a file, a folder, a pattern or a list of files by the reader of its kind
- `for_model.py`: `samples_of`: what a user gives as data, as samples of a model
- `images.py`: reads JPEG, PNG and BMP images by TensorFlow's decoders
- `memory.py`: reads what is in memory or made on the way: arrays, tf.data, PyDatasets, generators and other iterables
- `numpy_files.py`: reads .npy files by memory map and .npz files block by block; nothing is unpickled
- `ports.py`: how a model takes its inputs and gives its outputs: names, shapes and structure
- `preprocess.py`: what is done to each sample before the model sees it
- `records.py`: reads TFRecord files of tf.train.Example
- `resized.py`: what `fit` takes, as batches whose size is asked for when an epoch begins
- `rows.py`: what all readers share: the rows they give, which of a source's names feeds which input, and their errors
- `spec.py`: what goes into a model and what comes out: names, shapes and dtypes, the batch axis left out
- `stream.py`: turns what a user has (files, arrays, a tf.data.Dataset, a generator) into a stream of checked samples
- `values.py`: A value as an array of numbers in the shape and dtype of an input, or the error that says why it is
  none
"""

from tfstruct.samples.preprocess import Preprocess
from tfstruct.samples.spec import TensorSpec
from tfstruct.samples.stream import Batch, Sample, Samples, open_samples
from tfstruct.samples.values import require_numbers

__all__ = ["Batch", "Preprocess", "Sample", "Samples", "TensorSpec", "open_samples", "require_numbers"]
