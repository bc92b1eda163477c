"""How a model is run.

- `settings`, `configuration`: what can be set, from variants, YAML and flags. `checkpoint`: what is kept.
- `origin`, `conversion`, `mmdetection`, `class_lists`, `starting_weights`: weights of others.
- `training`, `optimization`, `resume`, `runlog`, `distributed`: the loop. `evaluation`, `details`: scores.
- `prediction`, `prediction_files`, `journal`, `inference`, `onnx_export`: answers. `commands`: what train.py and eval.py share.
"""
