"""The packages of models. A new one is named here; CONTRIBUTING.md says where else. And what export.py writes."""

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
# files with a graph that are run as a model, and what kind they are
EXPORTED = {".onnx": "an ONNX", ".pt2": "a compiled", ".xml": "an OpenVINO"}
