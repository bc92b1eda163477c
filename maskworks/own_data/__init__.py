"""Own photographs: what was found under a path -> COCO files that the loader reads."""
