"""Other people's checkpoints: found by name, read without running anything in them, recognised, given our names.

- `names`: what `load` and --weights take. `download`, `hub`: where it comes from. `weights`: the list as a command.
- `formats`: any file's tensors and plain data. `origin`, `config_text`, `reading`: what a file says;
  `mmdetection`, `detectron2`: what those libraries' files say alike.
- `whole_files`, `renaming`: a published file made one of ours. `class_lists`, `coco_classes`: its classes' names.
- `starting_weights`: where training starts.
"""
