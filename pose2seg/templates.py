"""The three poses that people are aligned to: what k-means found among COCO's skeletons (paper, section 3.2).

A joint is x and y in the unit square and its mean visibility, left beside right. Joints that are seldom visible don't
count: a person seen from behind has no nose, an upper body no knees. Other skeletons need other templates.
"""

import torch
from torch import Tensor

JOINT_NAMES = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder"),
    *("left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip"),
    *("left_knee", "right_knee", "left_ankle", "right_ankle"),
)
SEEN = 0.4  # mean visibility from which on a template has the joint

# whole body from the front
FRONT = (
    (0.5, 0.14743741, 1.9604074),  # nose
    *((0.5058379, 0.17530486, 1.7092338), (0.494162, 0.17530486, 1.7092338)),  # eyes
    *((0.5212906, 0.27884567, 1.1505916), (0.47870937, 0.27884567, 1.1505916)),  # ears
    *((0.57022554, 0.23786141, 1.9331523), (0.42977285, 0.2378614, 1.9331523)),  # shoulders
    *((0.59946793, 0.38697797, 1.7167119), (0.4005321, 0.38697797, 1.7167119)),  # elbows
    *((0.57605225, 0.43397745, 1.679903), (0.42394462, 0.43397748, 1.679903)),  # wrists
    *((0.5474927, 0.5278327, 1.9189719), (0.45250607, 0.5278326, 1.9189719)),  # hips
    *((0.5556778, 0.6972452, 1.8930455), (0.4443214, 0.697245, 1.8930455)),  # knees
    *((0.5454386, 0.85416865, 1.6422114), (0.4545623, 0.8541687, 1.6422114)),  # ankles
)

# whole body from behind
BACK = (
    (0.5, 0.4667606, 0.1224482),  # nose
    *((0.49637675, 0.4757405, 0.108410895), (0.50362355, 0.4757405, 0.108410895)),  # eyes
    *((0.48010612, 0.31671977, 0.9086713), (0.5198936, 0.31671977, 0.9086713)),  # ears
    *((0.45818663, 0.2283892, 1.8012371), (0.54181284, 0.22838919, 1.8012371)),  # shoulders
    *((0.4526764, 0.38663152, 1.4589988), (0.5473222, 0.38663152, 1.4589988)),  # elbows
    *((0.46015236, 0.44151804, 1.1815848), (0.5398488, 0.44151804, 1.1815848)),  # wrists
    *((0.4739813, 0.51231706, 1.8802903), (0.52601826, 0.5123171, 1.8802903)),  # hips
    *((0.47122464, 0.69629824, 1.7912788), (0.52877444, 0.6962981, 1.7912788)),  # knees
    *((0.47658333, 0.8408071, 1.556111), (0.52341664, 0.8408071, 1.556111)),  # ankles
)

# upper body
UPPER_BODY = (
    (0.5, 0.25329494, 1.8236276),  # nose
    *((0.52140886, 0.24520771, 1.6659194), (0.47859123, 0.24520771, 1.6659194)),  # eyes
    *((0.54760563, 0.31975922, 1.2038475), (0.45239237, 0.31975922, 1.2038475)),  # ears
    *((0.6248923, 0.4062387, 1.8431652), (0.37510875, 0.40623868, 1.8431652)),  # shoulders
    *((0.6382735, 0.6278542, 1.4211329), (0.36172676, 0.6278543, 1.4211329)),  # elbows
    *((0.56679136, 0.61718225, 1.2809942), (0.43321022, 0.61718225, 1.2809942)),  # wrists
    *((0.55734676, 0.7695134, 1.1517777), (0.442657, 0.7695135, 1.1517777)),  # hips
    *((0.5105673, 0.5794868, 0.25679058), (0.48943353, 0.5794868, 0.25679058)),  # knees
    *((0.5013389, 0.5222824, 0.06688911), (0.49866104, 0.5222824, 0.06688911)),  # ankles
)


def published_templates() -> Tensor:
    """The poses that the published model was trained with, ready to match against. [6, 17, 3]"""
    return expand(torch.tensor([FRONT, BACK, UPPER_BODY], dtype=torch.float64)).float()


def expand(centres: Tensor) -> Tensor:
    """Cluster centres [n, 17, 3] without their rare joints, and again with left and right exchanged. [2n, 17, 3]

    The coordinates need no mirroring: the clusters are of mirrored data too, so each centre is symmetric.
    """
    templates = torch.where(centres[..., 2:] < SEEN, 0.0, centres)
    return torch.cat((templates, templates[:, mirrored_order()]))


def mirrored_order() -> list[int]:
    """For each joint, the one on the body's other side."""
    other = {"left": "right", "right": "left"}
    sides = [name.partition("_") for name in JOINT_NAMES]
    names = [f"{other[side]}_{rest}" if side in other else side for side, _, rest in sides]
    return [JOINT_NAMES.index(name) for name in names]
