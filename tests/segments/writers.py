"""Modules of nnx that write in their call: what is kept, what is said, what is refused."""

from flax import nnx
from jax import numpy as jnp


class Writing(nnx.Module):
    says = ""

    def __init__(self):
        self.w = nnx.Param(jnp.eye(3) * 2 + 0.1)
        self.seen, self.array = nnx.BatchStat(jnp.zeros(())), nnx.data(jnp.zeros(3))
        self.calls = 0


class Layers(nnx.Module):
    says = "`layers.kernel`"

    def __init__(self):
        rngs = nnx.Rngs(0).split(4)
        self.layers = nnx.vmap(lambda rngs: nnx.Linear(3, 3, rngs=rngs))(rngs)


def scanned(layers, x, turn, axis=0):
    scan = nnx.scan(turn, in_axes=(axis, nnx.Carry), out_axes=nnx.Carry)
    return scan(layers, x)


class Statistics(Writing):
    def __call__(self, x):
        self.seen[...] += 1.0
        self.array = self.array + 1
        return x @ self.w[...] * self.seen[...] + self.array


class MadeAnew(Writing):
    """Plain Flax overwrites in every call what the one before has made."""

    def __call__(self, x):
        self.seen[...] += 1.0
        self.size = nnx.BatchStat(jnp.abs(x).mean())
        return x @ self.w[...] * self.size[...]


class PutBack(Writing):
    def __call__(self, x):
        was = self.w[...]
        self.w[...] = was * 2
        y = x @ self.w[...]
        self.w[...] = was
        return y


class InJit(Writing):
    def __call__(self, x):
        return nnx.jit(lambda model, x: x @ model.w[...])(self, x)


class InRemat(Writing):
    def __call__(self, x):
        return nnx.remat(lambda model, x: x @ model.w[...])(self, x)


class InCond(Writing):
    def __call__(self, x):
        return nnx.cond(x.sum() > 0, lambda m, x: x @ m.w[...], lambda m, x: x, self, x)


class InScan(Layers):
    def __call__(self, x):
        return scanned(self.layers, x, lambda layer, x: layer(x))


class Carried(Writing):
    def __call__(self, x):
        def turn(carry, i):
            model, x = carry
            return model, jnp.tanh(x @ model.w[...] + i)

        scan = nnx.scan(turn, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        return scan((self, x), jnp.arange(3.0))[1]


class Normed(Writing):
    says = "to the parameter `w`, as nnx.WeightNorm"

    def __call__(self, x):
        self.w[...] = self.w[...] / jnp.linalg.norm(self.w[...])
        return x @ self.w[...]


class Swapped(Writing):
    says = "and 1 more"

    def __init__(self):
        super().__init__()
        self.v = nnx.Param(jnp.ones((3, 3)))

    def __call__(self, x):
        self.w[...], self.v[...] = self.v[...], self.w[...]
        return x @ self.w[...]


class NormedInJit(Normed):
    def __call__(self, x):
        return nnx.jit(Normed.__call__)(self, x)


class NormedInCond(Normed):
    def __call__(self, x):
        return nnx.cond(x.sum() > 0, Normed.__call__, lambda m, x: x, self, x)


class NormedInScan(Layers):
    def __call__(self, x):
        def turn(layer, x):
            layer.kernel[...] *= 0.5
            return layer(x)

        return scanned(self.layers, x, turn)


class Wrapped(nnx.Module):
    says = "`norm.layer_instance.kernel`"

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.norm = nnx.WeightNorm(nnx.Linear(3, 3, rngs=rngs), rngs=rngs)

    def __call__(self, x):
        return self.norm(x)


class Counted(Writing):
    says = "the attribute `calls`"

    def __call__(self, x):
        self.calls += 1
        return x @ self.w[...] * self.calls


class CountedInParam(Writing):
    says = "`(layers.0.)?n`, of int32"

    def __init__(self):
        super().__init__()
        self.n = nnx.Param(jnp.zeros((), "int32"))

    def __call__(self, x):
        self.n[...] += 1
        return x @ self.w[...] * self.n[...]


class Late(Writing):
    says = "makes the parameter `(layers.0.)?late`"

    def __call__(self, x):
        if not hasattr(self, "late"):
            self.late = nnx.Param(jnp.ones(3))
        return x @ self.w[...] + self.late[...]


class LateStatistics(Writing):
    says = "the call makes `(layers.0.)?late`"

    def __call__(self, x):
        if not hasattr(self, "late"):
            self.late = nnx.BatchStat(jnp.ones(3))
        self.late[...] += 1
        return x @ self.w[...] + self.late[...]


class LateInList(Writing):
    says = "the call makes `(layers.0.)?late.0`"

    def __call__(self, x):
        self.late = nnx.List([nnx.BatchStat(x.mean())])
        return x @ self.w[...]


class OtherwiseLater(Writing):
    """Reads nothing of what it has made but that it is there."""

    says = "the call makes `(layers.0.)?late`"

    def __call__(self, x):
        again = hasattr(self, "late")
        self.late = nnx.BatchStat(x.mean())
        return x @ self.w[...] * (3.0 if again else 2.0)


class Replaced(Writing):
    says = "in the place of the parameter `(layers.0.)?w`"

    def __call__(self, x):
        self.w = self.w[...] * 2
        return x @ self.w


KEPT = [Statistics, MadeAnew, PutBack, InJit, InRemat, InCond, InScan, Carried]
SAID = [Normed, Swapped, NormedInJit, NormedInCond, NormedInScan, Wrapped, Counted]
REFUSED = [
    CountedInParam,
    Late,
    LateStatistics,
    LateInList,
    OtherwiseLater,
    Replaced,
]
