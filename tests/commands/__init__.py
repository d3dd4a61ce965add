"""Tests of commands: a package, since other rooms have files of the same names (test_fit.py)."""
