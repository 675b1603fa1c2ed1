"""Powers of two by which numbers come near 1 round no bit, whatever the size."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jsplit.core.powers import exponent_of, times_power

NUMBERS = np.float32([1.0, -1.9999999, 0.0, 0.1])


@pytest.mark.parametrize("compiled", [False, True])
def test_numbers_in_units_of_the_largest_are_the_same_numbers(compiled):
    def there_and_back(x):
        exponent = exponent_of(x)
        near = times_power(x, -exponent)
        return exponent, near, times_power(near, exponent)

    run = jax.jit(there_and_back) if compiled else there_and_back
    # All that float32 has, but those below its least normal number.
    for power in range(-122, 127):
        x = np.ldexp(NUMBERS, power)
        exponent, near, back = run(jnp.asarray(x))
        assert exponent == power + 1
        np.testing.assert_array_equal(near, NUMBERS / 2)
        np.testing.assert_array_equal(back, x)


def test_zeros_are_in_units_of_1():
    assert exponent_of(jnp.zeros(3)) == exponent_of(jnp.zeros((0,))) == 0
