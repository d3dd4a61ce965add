"""GPT-OSS in pure JAX: small enough to read in an evening, exact enough to trust."""

__version__ = "0.1.0"
