"""A run of several ranks, started by torchrun: rank 0 measures, judges and reports, the others do what it says."""
