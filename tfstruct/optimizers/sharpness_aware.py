"""`SharpnessAware`: gradients where the loss is worst nearby."""

import functools
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf
from keras import ops

from tfstruct.arguments import checked, require_number
from tfstruct.errors import ArgumentError
from tfstruct.keras_internals.replacing import remove_untracked, set_untracked
from tfstruct.keras_internals.training import forget_steps, loss_trackers
from tfstruct.optimizers.replicas import assign, projected, read
from tfstruct.optimizers.wrapper import Wrapper


@checked
@keras.saving.register_keras_serializable(package="tfstruct")
class SharpnessAware(Wrapper):
    """Sharpness-aware minimization (SAM): the gradient is taken a small step uphill, on the same batch.

    ```
    g   = gradient of the loss at w
    g'  = gradient of the loss at w + rho * g / ||g||        norm over all variables, same batch, same dropout
    w  <- inner optimizer's step from w with g'
    ```

    That takes two gradients a step, and so a second look at the loss, which an optimizer does not have. It gets it in
    one of two ways; `apply_gradients` alone raises an error instead of training without SAM:

    ```
    model.compile(SharpnessAware(SGD(0.1)), loss)
    model.optimizer.attach(model)                            # now `fit` takes this step; again after loading a file
    model.fit(x, y)

    loss = optimizer.minimize(lambda: loss_of(model(x, training=True)), model.trainable_variables,
                              state=model.non_trainable_variables)
    ```

    Statistics of batch norms, seeds and metrics move once a step: they are put back between the two passes, so that
    logs are those of the first. With several replicas the gradient uphill is that of the whole batch. With gradient
    accumulation each batch goes uphill by itself. The place uphill is held to the constraints of the weights, so that
    weights that are pruned are zero there too.

    Args:
        optimizer: a Keras optimizer, which keeps its weight decay, clipping, EMA, accumulation and loss scale.
        rho: length of the step uphill, above 0.

    Source: Foret et al., arXiv:2010.01412, Eq. 2 and Algorithm 1.

    Example:
        >>> model.compile(tfstruct.optimizers.SharpnessAware(keras.optimizers.SGD(0.1)), "mse")
        >>> model.optimizer.attach(model)
        >>> history = model.fit(x, np.ones((64, 2)), verbose=0)
    """

    def __init__(self, optimizer, rho=0.05, name=None, **kwargs):
        super().__init__(optimizer, name=name, **kwargs)
        self.rho = require_number("rho", rho, above=0)
        self._descending = 0

    def attach(self, model: keras.Model) -> None:
        """`model.fit` takes the step of `minimize` from now on; kept in memory, not in the model's file.

        Raises:
            ArgumentError: the model is compiled with another optimizer, or has a `train_step` of its own.
        """
        if self._outer(model) is None:
            raise ArgumentError(f"`{model.name}` is not compiled with this optimizer. Call model.compile first.")
        if type(model).train_step is not keras.Model.train_step:
            raise ArgumentError(f"`{model.name}` has a `train_step` of its own: call optimizer.minimize in it.")
        set_untracked(model, "train_step", functools.partial(self._train_step, model))
        forget_steps(model)

    def detach(self, model: keras.Model) -> None:
        """`model.fit` takes Keras's own step again: for another optimizer."""
        if "train_step" in vars(model):
            remove_untracked(model, "train_step")
            forget_steps(model)

    def minimize(self, loss_fn: Callable, variables: Sequence, state: Sequence = ()):
        """One step on `loss_fn()`, which is called twice; also inside a `tf.function`.

        Args:
            loss_fn: a function without arguments that computes the loss.
            variables: the weights to train.
            state: variables that the second call shall find as the first did, and leave as the first left them:
                `model.non_trainable_variables`.

        Returns:
            The loss at the weights before the step.
        """
        return self._step(lambda: (loss_fn(),) * 2, list(variables), list(state), self)

    def around(self, grads, variables):
        if not self._descending:
            raise RuntimeError(
                "SharpnessAware needs two gradients a step. Before `fit`, call `optimizer.attach(model)`; in a loop of "
                "your own, `optimizer.minimize(loss_fn, variables)` in place of `apply_gradients`."
            )
        super().around(grads, variables)

    def _outer(self, model):
        """The model's optimizer, if that is this one, maybe inside a LossScaleOptimizer."""
        outer = getattr(model, "optimizer", None)
        inner = getattr(outer, "inner_optimizer", None)
        scaled = isinstance(outer, keras.optimizers.LossScaleOptimizer) and inner is self
        return outer if outer is self or scaled else None

    def _step(self, forward: Callable, variables: list, state: list, outer):
        if not outer.built:
            outer.build(variables)
        weights = read(variables)
        seen = read(state)
        result, uphill = _gradients(forward, variables, outer)
        left = read(state)
        for variable, value in zip(state, seen, strict=True):
            variable.assign(value)
        self._climb(uphill, variables, weights)
        _, gradients = _gradients(forward, variables, outer)
        for variable, value in zip(state, left, strict=True):
            variable.assign(value)
        assign(variables, weights)
        self._descending += 1
        try:
            outer.apply_gradients(zip(gradients, variables, strict=True))
        finally:
            self._descending -= 1
        return result

    def _climb(self, gradients, variables, weights):
        known = [i for i, g in enumerate(gradients) if g is not None]
        dense = [tf.convert_to_tensor(gradients[i]) for i in known]
        replica = tf.distribute.get_replica_context()
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            dense = replica.all_reduce(tf.distribute.ReduceOp.SUM, dense)
        # Divided by the largest entry first: squares of scaled gradients overflow.
        largest = functools.reduce(ops.maximum, [ops.cast(ops.max(ops.abs(g)), "float32") for g in dense])
        largest = ops.where(largest > 0, largest, ops.ones_like(largest))
        dense = [ops.cast(g, "float32") / largest for g in dense]
        norm = ops.sqrt(sum(ops.sum(ops.square(g)) for g in dense))
        step = ops.where(norm > 0, self.rho / ops.where(norm > 0, norm, ops.ones_like(norm)), ops.zeros_like(norm))
        moved = [weights[i] + ops.cast(step * g, weights[i].dtype) for i, g in zip(known, dense, strict=True)]
        climbed = [variables[i] for i in known]
        assign(climbed, projected(climbed, moved))

    def _train_step(self, model, data):
        outer = self._outer(model)
        if outer is None:
            raise ArgumentError(
                f"`{model.name}` was compiled with another optimizer after attach(): call detach(model)."
            )
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)

        def forward():
            outputs = model(x, training=True)
            loss = model.compute_loss(x=x, y=y, y_pred=outputs, sample_weight=weight, training=True)
            return (loss, outputs), loss

        state = [*model.non_trainable_variables, *model.metrics_variables]
        state = list({id(variable): variable for variable in state}.values())
        loss, outputs = self._step(forward, list(model.trainable_variables), state, outer)
        size = ops.shape(keras.tree.flatten(x)[0])[0]
        # Keras divides the loss by the number of replicas; the metric is that of the batch.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        for metric in loss_trackers(model):
            metric.update_state(loss * replicas, sample_weight=size)
        return model.compute_metrics(x, y, outputs, sample_weight=weight)

    def get_config(self):
        return {**super().get_config(), "rho": self.rho}


def _gradients(forward: Callable, variables: list, outer):
    with tf.GradientTape() as tape:
        result, loss = forward()
        scaled = outer.scale_loss(loss)
    return result, tape.gradient(scaled, [v.value if isinstance(v, keras.Variable) else v for v in variables])
