"""The packages of models. A new one is named here; CONTRIBUTING.md says where else."""

# package: the class of its network; scripts look for a package only where it is installed
NETWORKS = {
    "solov2": "SOLOv2",
    "yolact": "YOLACT",
    "maskrcnn": "MaskRCNN",
    "refinemask_psg": "RefineMask",
    "upsnet": "UPSNet",
    "glip": "GLIP",
    "pose2seg": "Pose2Seg",
}
