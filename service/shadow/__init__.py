"""A candidate version beside the active one, on the same live pictures, in a process that steps behind."""
