"""What every test and every notebook kernel starts with, however pytest was called."""

import os

# Expected values were computed on a CPU; `JAX_PLATFORMS=cuda make test` asks for something else.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# A progress bar prints its rate, and a rate is never the same twice.
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("GPTOSS_EDU_STATIC", "1")
