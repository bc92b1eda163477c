"""The CUDA source of the focal loss, and the library built from it."""
