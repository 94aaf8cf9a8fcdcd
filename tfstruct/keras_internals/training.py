"""What a model was compiled with, and the steps that Keras has traced for it."""

import keras
from keras.src.losses.loss import scale_loss_for_distribution, unscale_loss_for_distribution


def loss_weights_of(model: keras.Model):
    """`loss_weights` as `compile` was given them; None without."""
    return getattr(getattr(model, "_compile_loss", None), "_user_loss_weights", None)


def metrics_of(model: keras.Model):
    """`metrics` as `compile` was given them; None without."""
    return getattr(getattr(model, "_compile_metrics", None), "_user_metrics", None)


def compile_alike(model: keras.Model, other: keras.Model) -> None:
    """Compiles a model with the very loss, metrics and optimizer of another, if that is compiled."""
    if other.compiled:
        model.compile(**{**other._compile_config.config, "optimizer": other.optimizer})


def compile_anew(model: keras.Model, other: keras.Model) -> None:
    """Compiles a model as another one, if that is: the same loss, copies of metrics, an optimizer of its own."""
    if not other.compiled:
        return

    def copied(metric):
        return type(metric).from_config(metric.get_config()) if isinstance(metric, keras.metrics.Metric) else metric

    config = dict(other._compile_config.config)
    config["optimizer"] = copied_optimizer(other.optimizer)
    for name in ("metrics", "weighted_metrics"):
        config[name] = keras.tree.map_structure(copied, config.get(name))
    model.compile(**config)


def copied_optimizer(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """One of the same settings, without state; the learning rate is the present one."""
    return type(optimizer).from_config(optimizer.get_config())


def metric_objects(model: keras.Model) -> list[keras.metrics.Metric]:
    """The metrics that Keras made of the `metrics` of `compile`; before the first batch there are none."""
    return list(getattr(getattr(model, "_compile_metrics", None), "metrics", ()))


def loss_trackers(model: keras.Model) -> list[keras.metrics.Metric]:
    """The metric of the loss that `fit` logs: the mean over the epoch. A model that is not compiled has none."""
    return [metric for metric in model.metrics if metric.name == "loss"]


def better_when(metric: keras.metrics.Metric) -> str | None:
    """`"up"` or `"down"` where Keras knows whether more of a metric is better."""
    return getattr(metric, "_direction", None)


def loss_knows_training(model: keras.Model) -> bool:
    """Whether the `compute_loss` of a model takes `training`."""
    return model._compute_loss_has_training_arg


def forget_steps(model: keras.Model) -> None:
    """The next `fit`, `evaluate` and `predict` trace their step anew: what was changed since does not act else."""
    model.train_function = model.test_function = model.predict_function = None


def trace_training_again(model: keras.Model) -> None:
    """Traces the training step anew at its next call, inside a `fit` that runs too."""
    model.make_train_function(force=True)


def share_of_replica(loss):
    """The share of a loss that one replica adds: Keras sums the losses of replicas."""
    return scale_loss_for_distribution(loss)


def whole_loss(share):
    """The loss of which `share_of_replica` made a share."""
    return unscale_loss_for_distribution(share)


def state_without_model(callback: keras.callbacks.Callback) -> dict:
    """The attributes of a callback, without the model that `fit` gave it."""
    state = dict(vars(callback))
    return {**state, "_model": None} if "_model" in state else state
