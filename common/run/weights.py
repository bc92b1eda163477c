"""python -m common.run.weights: the names of published weights, which maskworks/published/weights.py keeps."""

from runpy import run_module

if __name__ == "__main__":
    run_module("maskworks.published.weights", run_name="__main__")
