"""Markets full of learning agents that trade against each other, stepped by one pure JAX function.

>>> import jaxarena
>>> env, params = jaxarena.make("Gbm-v0")
"""

from jaxarena.registry import make, register, registered

__all__ = ["make", "register", "registered"]
__version__ = "0.1.0"
