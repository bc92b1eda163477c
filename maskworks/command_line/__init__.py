"""Command lines: words -> a dataclass of settings; what goes wrong is a line.

- `reading`: flags, and mistakes in them. `table`: a dataclass's flags. `allowed`: what each may be. `help`: --help.
- `variants`: train.py and eval.py's VARIANT --config FILE.yaml --flags. `yaml_files`: settings in files, and as flags.
- `program`: what stands around every command: errors as lines, an exit status.
"""

from maskworks.command_line.reading import read

__all__ = ["read"]
