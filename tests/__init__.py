"""A package, so that one called `tests` that a library installs (torch-fidelity does) cannot stand before it."""
