"""How a model is run.

- `settings`, `configuration`: what can be set, from variants, YAML and flags. `checkpoint`: what is kept.
- `published`, `origin`, `conversion`, `mmdetection`, `class_lists`, `starting_weights`: the weights of others.
- `training`, `optimization`, `resume`, `runlog`, `distributed`: the loop. `evaluation`, `details`: the scores.
- `prediction`, `prediction_files`, `journal`, `inference`, `onnx_export`: answers. `commands`: what all commands share.
"""
