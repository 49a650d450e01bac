"""The networks here are small: further threads would only wait for each other."""

from tests.torch_threads import one_thread  # noqa: F401
