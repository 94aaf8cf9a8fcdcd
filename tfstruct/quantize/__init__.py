"""Quantization: the forward pass of a quantized file in Keras, and the rounding of weights.

- `rounding.py`: scales and rounding of weights, NumPy only
- `scheme.py`: `Scheme`: what is rounded how, as data
- `fake.py`: activations rounded, seen in float, gradients passed through
- `grids.py`: where the weights of a kernel may lie: integers times a step, which follows them or learns
- `ranges.py`: the range of an activation: followed from batch to batch, or learned
- `masks.py`: what is a mask, and how far below all others masked values are: one rule for twin and file
- `mask_places.py`, `masked_range.py`, `masked_ranges.py`: where values are masked before a softmax; the range of one
  such point; how those of a model depend on each other
- `learning.py`: steps and ranges that learn by a rule of their own, between backward and forward pass
- `rounding_points.py`: the tensors that are integers in the file, where the twin rounds: after fusion, one range for
  what only moves
- `folding.py`: what the file computes ahead: constants, and what of them becomes part of a linear operator
- `constant_operands.py`: the constants that a model's operations read, as the file rounds them
- `rescaling.py`: how the file's kernels round what they make of integers
- `integer_kernels.py`: what operators of the file compute on integers, for inference
- `simulation.py`: the forward pass: a model's own layers routed through that
- `unseen.py`: what of a layer it does not simulate
- `twin.py`: `Twin`: it as a Keras model, which is saved and converted
- `dequantizing.py`: `dequantize`: the plain model with a twin's kernels
- `calibrators.py`: ranges of activations from their values on data, in five ways
- `calibration.py`, `quantization_report.py`: `calibrate`: a twin of a trained model, its ranges from data; what is
  rounded, also of `QuantizeAware`
- `preactivations.py`: what layers make before their activation, on data
- `bias_correction.py`, `bias_report.py`: `correct_bias`: the mean error of each channel taken out of its bias; what
  was done
- `fused.py`: which layers become one operator of the file
- `layer_sensitivity.py`, `sensitivity_report.py`: `sensitivity`: one layer quantized at a time; SQNR and metric by
  layer
- `precision_search.py`, `precision_report.py`: `mixed_precision`: a precision for each layer under a budget; what each
  adds and costs
- `subgraphs.py`: parts of a graph as one: the layers of an operator, or a block of them; run alone
- `soft_rounding.py`: a kernel between rounding down and up
- `reconstruction.py`, `reconstruction_report.py`: `adaround`, `blockwise`: rounding learned by layer or block; the
  errors before and after
- `equalization.py`, `equalization_report.py`: `equalize`: ranges of channels made alike across layers; what was done
"""

from tfstruct import lazy

__getattr__, __dir__, __all__ = lazy.names(
    __name__,
    {
        "Scheme": "scheme",
        "Twin": "twin",
        "dequantize": "dequantizing",
        "twin": None,
        "calibrate": "calibration",
        "equalize": "equalization",
        "correct_bias": "bias_correction",
        "sensitivity": "layer_sensitivity",
        "mixed_precision": "precision_search",
        "adaround": "reconstruction",
        "blockwise": "reconstruction",
    },
    registered=True,
)
