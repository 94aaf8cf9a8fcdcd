"""Training, calibration and test data of any kind as a stream of checked samples. TensorFlow loads on use only."""

from tfstruct.samples.preprocess import Preprocess
from tfstruct.samples.spec import TensorSpec
from tfstruct.samples.stream import Sample, Samples, open_samples
from tfstruct.samples.values import require_numbers

__all__ = ["Preprocess", "Sample", "Samples", "TensorSpec", "open_samples", "require_numbers"]
