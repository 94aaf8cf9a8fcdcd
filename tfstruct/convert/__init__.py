"""Conversion of Keras models to verified `.tflite` files.

The names here load on first use: `import tfstruct.convert` costs nothing.

- `recipe.py`: what shall be done: a frozen `Recipe`, JSON
- `scopes.py`: which layer a node of a TensorFlow graph came from
- `export.py`: Keras model to SavedModel; which graph name came from which layer
- `rewrites.py`: layers without integer kernels in a form that has them, for the length of a trace
- `kept_biases.py`: biases that stay with their own layer, which the converter moves on
- `zero_biases.py`: biases of zeros, which the converter drops and a twin may train
- `converter.py`, `worker.py`, `child.py`: TensorFlow's converter in a process of its own: requests and errors; the
  processes, kept for the next conversion; the script
- `flatbuffer.py`, `file_writing.py`: the inside of a `.tflite` file: operators, tensors, float islands; written
  compactly, or without a copy of large constants
- `tensor_names.py`: tensors named after their Keras layers
- `file_bounds.py`: how many objects a `.tflite` file becomes, counted before it is unpacked
- `lookups.py`: tables of embeddings with a scale a row, in files whose weights alone are integers
- `plumbing.py`: casts, one-hot codes and reversals of a float file, as quantizers take them; floats and integers at
  the inputs of theirs
- `calibrate.py`: ranges of activations from samples run through a float file
- `masks.py`: masks of attention made finite, just below the values beside them; what is lost beside large values
- `weights.py`: GPTQ over a float file, before a quantizer stores it
- `multipliers.py`: ranges no narrower than kernels can rescale to
- `biases.py`: whether biases fit into their 32 bits, and wider limits of kernels with which they do
- `scales.py`: whether the scales of a file are usable numbers
- `border_types.py`, `front_scaling.py`: types of inputs and outputs; preprocessing as part of an input's scale
- `file_notes.py`: notes in a file, by name
- `metadata.py`, `metadata_schema.py`: `Metadata`, with labels, by TensorFlow Lite's schema; its tables
- `engines.py`: litert-quantizer and TensorFlow's quantizer behind one call
- `runtime.py`: runs a file: predictions, intermediate values, latency
- `ports.py`, `usage.py`, `c_ports.py`: inputs and outputs of a file: what their integers stand for; how to use them, in
  Markdown and C++
- `model_card.py`: the report of a conversion as a model card
- `agreement.py`, `verification.py`, `verifying.py`: figures of two sets of predictions; running both models for them;
  `verify`
- `layer_errors.py`, `input_coverage.py`: the loss of each tensor of a file; how samples use the range of an input
- `lost_columns.py`, `port_ranges.py`: columns of an output that are lost in the error of the whole; steps and ranges
  of inputs and outputs
- `doubts.py`: why a file or its figures should not be trusted, in words
- `scale_check.py`: does the calibration data have the training's scale
- `devices/`: one device a file: who judges, which operators it takes, replacements, 4-bit weights; `device.py`: the
  form of that; found by being in the folder
- `devices/boards.py`, `devices/reading.py`, `devices/litert_npu.py`: boards with flash and RAM; an operator as rules
  read it; the compilers of NPUs through LiteRT
- `targets.py`, `target_report.py`, `target_table.py`, `replacements.py`: does every operator fit a device; what was
  found; of one device, of several in one table; what to write in Keras instead
- `micro.py`, `micro_child.py`: C arrays, resolver calls; tflite-micro in a process of its own
- `vectors.py`: `test_vectors`: inputs and expected outputs as C arrays, with a program that checks a device
- `cutout.py`: one operator of a file as a file
- `table_bytes.py`: what the tables of a file take by operator, besides weights and scales
- `kernel_operator.py`: an operator with a kernel by its shapes alone, at any width, as a file
- `draft.py`: the file of a model with random calibration: for questions about operators and latency
- `latency.py`: time by operator: measured here, or from a device's table
- `file_report.py`: `describe`: what is inside of a file, read from the file alone
- `report.py`: what was done; several conversions compared
- `trained.py`: ranges of activations and limits of kernels that training found, put on the tensors of a file
- `recipe_data.py`, `recipe_checks.py`: the samples that a recipe names, and stand-ins; does it fit the model
- `rounding_choice.py`, `missing_kernels.py`: which weights GPTQ rounds; what stays in float or larger for want of a
  kernel
- `tflite_model.py`: `TFLiteModel`: a file with its report
- `source.py`, `keras_source.py`, `file_source.py`: what is converted: a Keras model, with what a twin of it was trained
  for; a float `.tflite` file
- `signatures.py`: several functions in one file: joined, with equal constants stored once, and taken apart
- `several.py`, `signature_file.py`, `signature_report.py`: several models to one file; `SignatureFile`; its report
- `joined_metadata.py`: metadata of files that become functions of one
- `dynamic.py`: files whose batch or sizes are open on request, compared at other sizes
- `stream_source.py`: a streaming model as a source: its data are whole sequences, its samples the calls of these
- `stream_states.py`: states with one scale for what goes in and comes out; the plan of a streaming file, noted in it
- `stream_precision.py`: recurrent layers of streaming int8 files in 16 bits, and states as they are computed
- `stream_file.py`, `stream_verification.py`: `StreamingFile`: a streaming file run call by call; beside its model, over
  sequences
- `tflite.py`: `to_tflite`, `Converter`: the steps in order
- `stored_kernels.py`: `dequantize`: the integer kernels of a file back in the Keras model, or those of a twin
- `packing/huffman.py`: canonical Huffman codes, in lanes that are decoded side by side
- `packing/arrays.py`: arrays of bit patterns in the code that makes them smallest
- `packing/container.py`: the packed file: a description and arrays, with a checksum; nothing is believed
- `packing/keras_archive.py`, `packing/tflite_buffers.py`: models taken apart into arrays and a description; put
  together again
- `packing/lookup_tables.py`: kernels as indices into tables: their size, and tflite-micro's file
  (`compress_for_micro`)
- `packing/packed.py`, `packing/report.py`: `pack`, `unpack`; what sharing and sparsity give, by tensor and in total
"""

from tfstruct import lazy

__getattr__, __dir__, __all__ = lazy.names(
    __name__,
    {
        "ConversionError": "converter",
        "VerificationError": "tflite",
        "Recipe": "recipe",
        "to_tflite": "tflite",
        "Converter": "tflite",
        "TFLiteModel": "tflite_model",
        "verify": "verifying",
        "Verification": "verification",
        "Report": "report",
        "describe": "file_report",
        "TestVectors": "vectors",
        "test_vectors": "vectors",
        "Metadata": "metadata",
        "PortMetadata": "metadata",
        "read_metadata": "metadata",
        "write_metadata": "metadata",
        "FileReport": "file_report",
        "StreamingFile": "stream_file",
        "SignatureFile": "signature_file",
        "SignatureReport": "signature_report",
        "join_signatures": "signatures",
        "split_signatures": "signatures",
        "check_target": "targets",
        "TargetReport": "target_report",
        "TargetTable": "target_table",
        "TARGETS": "targets",
        "Board": "devices.boards",
        "boards": "devices.boards",
        "add_board": "devices.boards",
        "add_boards": "devices.boards",
        "measured_latency": "draft",
        "LatencyTable": "latency",
        "dequantize": "stored_kernels",
        "pack": "packing.packed",
        "unpack": "packing.packed",
        "Packed": "packing.packed",
        "PackReport": "packing.report",
        "compress_for_micro": "packing.lookup_tables",
    },
)
