#!/usr/bin/env bash
# Someone with digits.h5 and folders of PNGs, one a class, who wants a C array, the size of the arena and the scales of
# inputs and outputs: by docs/jobs/microcontrollers.md and docs/jobs/command.md. Run in the folder that holds both.
set -euo pipefail

# What is in the model, and does the device have kernels for it? The first guess at the name says what is meant.
tfstruct inspect digits.h5 --target esp32 2> hint.txt && exit 9
grep "perhaps 'micro'" hint.txt
tfstruct inspect digits.h5 --target micro > inspected.txt

# Without --scale the pixels go in as 0..255: the report has a warning.
tfstruct quantize digits.h5 -o raw.tflite --calibration images/train --no-latency > raw.txt 2> raw.log
grep -- "--scale 1/255" raw.txt

# The file, the C array, the arena, vectors for a test on the board; worse than 95 % equal classes would be exit status 1.
tfstruct quantize digits.h5 -o net.tflite --calibration images/train --verify images/test --scale 1/255 \
    --target micro --c-array --test-vectors 4 --min-agreement 95% --report net.html --save-config net.toml 2> net.log
tfstruct inspect net.tflite --json > net.json
tfstruct verify net.tflite digits.h5 images/test --scale 1/255 --min-agreement 95%
tfstruct profile net.tflite > times.txt
