"""The benchmark's cases, one module per suite, and how they are measured."""
