# For other compiled modules only: nothing here is visible from Python.
