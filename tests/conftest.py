"""Tests run on the CPU unless something else is asked for, also where `make` does not start them.

libtpu is installed for its compiler; asked for nothing, JAX would look for a TPU to run on.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
