"""In a clone, what this package stands on is installed from beside it; elsewhere it is asked for by name."""

from pathlib import Path

from setuptools import setup

OURS = {"maskworks-common": "common", "maskworks-around": "maskworks"}
PLACES = {name: Path(__file__).resolve().parent.parent / folder for name, folder in OURS.items()}

if __name__ == "__main__":
    needed = [f"{name} @ {place.as_uri()}" if place.is_dir() else f"{name}>=0.1,<0.2" for name, place in PLACES.items()]
    setup(install_requires=needed)
