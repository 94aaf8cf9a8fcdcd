"""Models of whole sequences as models of a few frames a call, which hand states on to the next one.

The names load on first use.

- `plan.py`: what goes in and out in a call, and which states go on, as plain data
- `running.py`: `Stream`: a model or file run call by call; over whole sequences
- `flow.py`: what is known of the tensors of a streaming model while it is built: frames and how late they are; states
- `framewise.py`: does an operation compute each frame alone, tried on random frames
- `eager.py`: a call of the original computed on arrays
- `rules.py`: which operation follows which rule, and what a rule gets
- `convolutions.py`, `recurrent.py`, `windows.py`: the rules: what reads some frames around each; what remembers; what
  looks at all of them
- `calls.py`: a call made once more: by its rule, frame by frame, or on the last window
- `building.py`: from the graph of a model to inputs, states and outputs
- `whole.py`: the original on sequences of any length, to compare with
- `streaming.py`: `to_streaming`
- `report.py`: `Streaming`, its model with what runs it; `StreamingReport`
"""

from tfstruct import lazy

__getattr__, __dir__, __all__ = lazy.names(
    __name__,
    {
        "to_streaming": "streaming",
        "Streaming": "report",
        "StreamingReport": "report",
        "StreamPlan": "plan",
        "Stream": "running",
    },
)
