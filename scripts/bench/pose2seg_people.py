"""Pose2Seg's cost for each person, and its peak memory, for few and for many people in one photograph.

python scripts/bench/pose2seg_people.py
"""

from functools import partial
from statistics import median

import numpy as np
import torch
import tyro
from _timing import measure, memory

from maskworks.command_line import program
from maskworks.command_line.variants import choose
from pose2seg import VARIANTS, Pose2Seg
from pose2seg.templates import published_templates

HEIGHT, WIDTH = 480, 640
COUNTS = (0, 10, 50)  # rising, as a process's peak memory never falls
TARGET = 1.1


def people(count: int) -> torch.Tensor:
    """Skeletons like the templates, of random sizes, places and turns. [count, 17, 3]"""
    random = np.random.RandomState(0)
    templates = published_templates()[:3].numpy()
    joints = templates[random.randint(len(templates), size=count)]
    angles, sides = random.uniform(-0.5, 0.5, count), random.uniform(60, 300, count)
    turns = np.stack((np.cos(angles), -np.sin(angles), np.sin(angles), np.cos(angles)), axis=1).reshape(-1, 2, 2)
    points = (joints[..., :2] - 0.5) @ turns * sides[:, None, None]
    points += random.uniform(0, 1, (count, 1, 2)) * (WIDTH, HEIGHT)
    visible = np.where(joints[..., 2:] > 0, 2.0, 0.0)
    return torch.from_numpy(np.concatenate((points, visible), axis=2) * (visible > 0)).float()


def main(rounds: int = 3, variant: str = "coco_occ", threads: int = 1) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = Pose2Seg(choose(VARIANTS, variant)).eval().to(memory_format=torch.channels_last)
    photograph = np.random.RandomState(0).randint(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    print(f"{variant}, {HEIGHT}x{WIDTH}, {model.config.test.people_at_once} people at once, CPU time\n")
    print(f"{'people':>8}{'photograph':>14}{'spread':>9}{'each person':>14}{'peak memory':>14}")
    seconds: dict[int, float] = {}
    for count in COUNTS:
        (times,) = measure({"": partial(model.predict, [photograph], [people(count)])}, rounds).values()
        seconds[count] = median(times)
        each = (seconds[count] - seconds[0]) / count if count else 0.0
        spread = f"{(max(times) - min(times)) / seconds[count]:.0%}"
        print(f"{count:>8}{seconds[count]:>12.2f} s{spread:>9}{1000 * each:>11.0f} ms{memory():>10.0f} MiB")
    few, many = ((seconds[count] - seconds[0]) / count for count in COUNTS[1:])
    ratio = f"one of {COUNTS[2]} people costs {many / few:.2f} times what one of {COUNTS[1]} does"
    print(f"\n{ratio}; target: at most {TARGET}")


if __name__ == "__main__":
    program.run(lambda: tyro.cli(main, description=__doc__))
