"""Set-up and demonstration: run as modules from the root, ``python -m scripts.engine``."""
