"""A `Metric`: a number of all outputs and labels of a set, where a loss is a mean of examples.

An AUC of a set is no mean of the AUCs of its batches, so what a metric reads is gathered
over all batches at its party, and `fn` is called once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jsplit.topology.names import as_names, check_names


@dataclass(frozen=True)
class Metric:
    """A number that one party computes of all examples of a set, in `evaluate` alone.

    Nothing is trained for it: a training step neither computes it nor sends
    anything for it, and no cotangent comes back. A value that another party
    makes crosses to the metric's party, in `evaluate`.

    Attributes:
        name: Name of the metric.
        fn: `fn(*inputs)` of NumPy arrays, each [examples, ...] of the whole
            set; a float, an integer or a boolean. It runs on the host, so
            scikit-learn and the like will do. Examples of weight 0 are left
            out. Floating inputs narrower than float32 arrive as float32.
        party: Who computes it.
        inputs: Names of fields that the party holds, and of values.
        weighted: Whether `fn` takes how much each example counts, as
            `fn(*inputs, weight=...)`, [examples], or [examples, time] if the
            weights of the set are of entries, as tokens; an example of which
            none counts is left out. Otherwise examples, or entries, that
            count at all must count alike.

    Raises:
        ValueError: If `fn` is no function, `inputs` is empty, `weighted` is
            no boolean, or a name is not a string.

    Example:
        >>> import jsplit
        >>> def auc(score, label):
        ...     above = score[label > 0][:, None] > score[label == 0][None]
        ...     return above.mean()
        >>> metric = jsplit.Metric("auc", auc, "server", ["score", "label"])
        >>> metric.reads
        ('score', 'label')
    """

    name: str
    fn: Callable[..., object]
    party: str
    inputs: str | Sequence[str]
    weighted: bool = False

    def __post_init__(self) -> None:
        check_names("metric", self.name, self.party)
        if not callable(self.fn):
            got = type(self.fn).__name__
            raise ValueError(
                f"metric `{self.name}`: `fn` must be a function, got {got}."
            )
        if not isinstance(self.weighted, bool):
            got = type(self.weighted).__name__
            raise ValueError(
                f"metric `{self.name}`: `weighted` must be true or false, got {got}."
            )
        names = as_names(f"metric `{self.name}`", self.inputs)
        # A tuple, so that a metric is hashable however the user wrote the names.
        object.__setattr__(self, "inputs", names)
        if not self.reads:
            raise ValueError(
                f"metric `{self.name}`: `inputs` is empty, so it depends on nothing."
            )

    @property
    def reads(self) -> tuple[str, ...]:
        """The names of all inputs, in the order in which `fn` takes them.

        Returns:
            A tuple of names; a name may come twice.

        Example:
            >>> import jsplit
            >>> jsplit.Metric("most", max, "server", "logits").reads
            ('logits',)
        """
        return tuple(self.inputs)

    @property
    def differentiable_inputs(self) -> tuple[str, ...]:
        """The inputs that may get a cotangent from this metric.

        Returns:
            None of them.

        Example:
            >>> import jsplit
            >>> jsplit.Metric("most", max, "server", "logits").differentiable_inputs
            ()
        """
        return ()
