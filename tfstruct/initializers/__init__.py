"""Initial weights, from data or from another model too."""

from tfstruct import lazy

__getattr__, __dir__, __all__ = lazy.names(
    __name__,
    {
        "Constant": "from_keras",
        "GlorotNormal": "from_keras",
        "GlorotUniform": "from_keras",
        "HeNormal": "from_keras",
        "HeUniform": "from_keras",
        "Identity": "from_keras",
        "LecunNormal": "from_keras",
        "LecunUniform": "from_keras",
        "Ones": "from_keras",
        "Orthogonal": "from_keras",
        "RandomNormal": "from_keras",
        "RandomUniform": "from_keras",
        "TruncatedNormal": "from_keras",
        "VarianceScaling": "from_keras",
        "Zeros": "from_keras",
        "Mean": "averaging",
        "LSUV": "unit_variance",
        "inherit": "inheritance",
        "Signals": "signals",
        "describe": "signals",
    },
    registered=True,
)
