"""`tfmot.clustering.keras`: weights that share few values while a model trains, over `tfstruct.callbacks.Cluster`."""

import contextlib
import enum
import types
from collections.abc import Iterator

import keras

from tfstruct.arguments import named_as
from tfstruct.callbacks import Cluster
from tfstruct.errors import ArgumentError, ModelError
from tfstruct.tfmot import marked as marks

_MARK = "clusters"
__getattr__ = marks.absent(
    {
        "ClusterableLayer": "tfstruct.callbacks.Cluster(layers=...) chooses layers, and opens custom ones.",
        "ClusteringAlgorithm": "tfstruct.callbacks.Cluster(share=...) has kmeans, hash and product.",
    },
    "tfmot.clustering.keras",
)


class CentroidInitialization(enum.Enum):
    """Where k-means begins; `RANDOM` is k-means++ too, which draws at random by distance."""

    LINEAR = "linear"
    RANDOM = "random"
    DENSITY_BASED = "density"
    KMEANS_PLUS_PLUS = "kmeans++"


@keras.saving.register_keras_serializable(package="tfstruct.tfmot")
class ClusterWeights(keras.Sequential):
    """A single layer whose weights are clustered as soon as they are there; see `cluster_weights`."""

    def __init__(self, layers=None, settings: dict | None = None, **kwargs):
        super().__init__(layers, **kwargs)
        self._settings = dict(settings or {})

    def build(self, input_shape=None) -> None:
        super().build(input_shape)
        if marks.marked(self, _MARK) is None and self._settings:
            self.built = True
            _attach(self, self._settings)

    def get_config(self) -> dict:
        return {**super().get_config(), "settings": self._settings}


def _attach(model: keras.Model, settings: dict) -> keras.Model:
    return marks.mark(model, _MARK, Cluster(**settings).attach(model))


def cluster_weights(
    to_cluster,
    number_of_clusters: int,
    cluster_centroids_init: CentroidInitialization | str = CentroidInitialization.KMEANS_PLUS_PLUS,
    *,
    preserve_sparsity: bool = False,
    cluster_per_channel: bool = False,
    **wrapper,
):
    """Lets the weights of each kernel share values, from now on and while the model trains.

    Args:
        to_cluster: a built model, a layer, or a list of layers, of Keras 3.
        number_of_clusters: how many values a kernel may have, at least 2.
        cluster_centroids_init: where k-means begins.
        preserve_sparsity: zeros stay zero.
        cluster_per_channel: values for each output channel.
        **wrapper: what TFMOT hands to its wrapper, such as `name`: refused, as in `prune_low_magnitude`.

    Returns:
        A model of its own on the same layers; in place of a layer a `keras.Sequential` of it.

    Raises:
        ArgumentError: fewer than 2 values, or no `CentroidInitialization`.
        ArgumentTypeError: an argument of a wrapper, with what to write instead.
        ModelError: a subclassed model, or one that is not built.
    """
    marks.refuse_wrapper("cluster_weights", wrapper)
    init = _start_of(cluster_centroids_init).value
    settings = {
        "n_clusters": number_of_clusters,
        "init": "kmeans++" if init == CentroidInitialization.RANDOM.value else init,
        "keep_zeros": preserve_sparsity,
        "per": "channel" if cluster_per_channel else "layer",
        "depthwise": cluster_per_channel,
    }
    with named_as(n_clusters="number_of_clusters"):
        Cluster(**settings)  # checks them

    def of_layer(layer):
        # Of these only some have a kernel; TFMOT passes the others through.
        return ClusterWeights([layer], settings, name=f"cluster_{layer.name}")

    return marks.each(to_cluster, of_layer, lambda model: _attach(marks.on_same_layers(model), settings))


def _start_of(given) -> CentroidInitialization:
    """The start that is meant, by itself, its name or its value."""
    for one in CentroidInitialization:
        if given in (one, one.name, one.value):
            return one
    raise ArgumentError(
        f"`cluster_centroids_init` must be one of {', '.join(map(str, CentroidInitialization))}. Received: {given!r}."
    )


def strip_clustering(model: keras.Model) -> keras.Model:
    """A plain model on the same layers, whose kernels have few values.

    Raises:
        ModelError: the model was not made by `cluster_weights`.
    """
    whole = marks.marked(model, _MARK)
    parts = [part for part, _ in marks.marked_layers(model, _MARK)]
    if whole is None and not parts:
        raise ModelError(f"`{model.name}` is not clustered. Make it by tfmot.clustering.keras.cluster_weights(model).")
    for cluster in [whole, *(marks.marked(part, _MARK) for part in parts)]:
        if cluster is not None and cluster._attached is not None:
            cluster.finish()
    if not parts:
        return marks.on_same_layers(model)
    return keras.models.clone_model(
        model, clone_function=lambda layer: layer.layers[0] if isinstance(layer, ClusterWeights) else layer
    )


class ClusteringSummaries(marks.Summaries):
    """`keras.callbacks.TensorBoard`, with TFMOT's arguments."""

    def __init__(self, log_dir: str = "logs", update_freq: str = "epoch", cluster_update_freq: str = "epoch", **kwargs):
        super().__init__(log_dir=log_dir, update_freq=update_freq, **kwargs)


@contextlib.contextmanager
def cluster_scope() -> Iterator[None]:
    """For `load_model`, as in TFMOT: files are plain Keras here, and load without it."""
    yield


experimental = types.SimpleNamespace(cluster_weights=cluster_weights)
