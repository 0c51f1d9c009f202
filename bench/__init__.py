"""Benchmarks. Importing this sets up torch as the service does."""

import promptreel.generation  # noqa: F401 - sets variables that torch reads on import
