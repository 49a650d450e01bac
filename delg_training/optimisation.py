"""SGD with momentum and the falling learning rate of the published training."""

from collections.abc import Callable, Sequence

import tensorflow as tf

from delg_training.models.weights import named_variables

MOMENTUM = 0.9
Schedule = Callable[[tf.Tensor], tf.Tensor]


def learning_rate(
    step: int | tf.Tensor, initial_lr: float, max_iters: int, warmup_steps: int = 0
) -> tf.Tensor:
    """initial_lr (1 - step / max_iters), with `step` updates done before; 0 from max_iters on.

    `warmup_steps` (ours, 0 in the published training): the rate rises over that many steps first.
    """
    step = tf.cast(step, tf.float32)
    # the difference before the division: the last steps keep all their digits
    rate = initial_lr * tf.maximum(float(max_iters) - step, 0.0) / float(max_iters)
    return rate * tf.minimum((step + 1.0) / (warmup_steps + 1.0), 1.0)


class Momentum(tf.Module):
    """v <- 0.9 v - lr g; w <- w + v. No Nesterov, no weight decay.

    `iter` counts the updates. A variable's v lies below `momentum` under the variable's own path:
    key `optimizer/momentum/backbone/conv1/kernel` of a checkpoint.
    """

    def __init__(self, model: tf.Module, schedule: Schedule) -> None:
        """Within `strategy.scope()` of a distributed run. `schedule`: updates done -> rate."""
        super().__init__(name="optimizer")
        self.schedule = schedule
        self.iter = tf.Variable(
            0,
            trainable=False,
            dtype=tf.int64,
            name="iter",
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        self.momentum = tf.Module(name="momentum")
        trainable = [(path, v) for path, v in named_variables(model) if v.trainable]
        for path, variable in trainable:
            _add_slot(self.momentum, path, variable)
        slots = dict(named_variables(self.momentum))
        # in a closure: as attributes, the checkpoint would list the weights a second time
        pairs = [(variable, slots[path]) for path, variable in trainable]
        self._pairs: Callable[[], list[tuple[tf.Variable, tf.Variable]]] = lambda: pairs

    @property
    def targets(self) -> list[tf.Variable]:
        """The variables that are trained, in the order of their paths."""
        return [variable for variable, _ in self._pairs()]

    def apply_gradients(self, gradients: Sequence[tf.Tensor]) -> None:
        """One update, from within a replica: gradients are summed over the replicas first."""
        tf.distribute.get_replica_context().merge_call(self._update, args=(list(gradients),))

    def _update(self, strategy: tf.distribute.Strategy, gradients: list[tf.Tensor]) -> None:
        pairs = self._pairs()
        rate = self.schedule(self.iter.read_value())
        summed = strategy.extended.batch_reduce_to(
            tf.distribute.ReduceOp.SUM,
            [(g, variable) for g, (variable, _) in zip(gradients, pairs, strict=True)],
        )
        for gradient, (variable, slot) in zip(summed, pairs, strict=True):
            strategy.extended.update(variable, _step, args=(gradient, slot, rate), group=False)
        self.iter.assign_add(1)


def _add_slot(root: tf.Module, path: str, variable: tf.Variable) -> None:
    *folders, name = path.split("/")
    for folder in folders:
        if not hasattr(root, folder):
            setattr(root, folder, tf.Module(name=folder))
        root = getattr(root, folder)
    shape = variable.shape
    setattr(root, name, tf.Variable(lambda: tf.zeros(shape), trainable=False, name=name))


def _step(variable: tf.Variable, gradient: tf.Tensor, slot: tf.Variable, rate: tf.Tensor) -> None:
    tf.raw_ops.ResourceApplyKerasMomentum(
        var=variable.handle,
        accum=slot.handle,
        lr=rate,
        grad=gradient,
        momentum=tf.constant(MOMENTUM),
    )
