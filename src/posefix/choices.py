"""The words that options take, apart from the modules that act on them: ``--help`` must not load those."""

from __future__ import annotations

#: What becomes a person's score in a results file (``inference.rescoring``): the estimator's times how consistent its
#: pose is with the image (``Refined.pose_consistency``), the estimator's, that times the refiner's mean confidence, or
#: this confidence alone.
RANKINGS = ("pose_consistency", "estimator", "product", "confidence")
#: Whether images are turned as their EXIF orientation says, see ``io.orientation``.
EXIF_MODES = ("auto", "apply", "ignore")
#: Files of poses, see ``adapters.files`` and ``adapters.track_files``.
RESULTS_FORMATS = ("coco", "alphapose", "openpose", "posetrack")
TRACK_FORMATS = (
    *("coco", "alphapose", "openpose", "posetrack", "mmpose"),
    *("deeplabcut-csv", "deeplabcut-h5", "sleap-slp", "sleap-h5", "trc"),
)
#: What runs the network, see ``inference.backends``, and what ``inference.export`` writes.
BACKENDS = ("auto", "torch", "openvino", "onnx")
EXPORT_FORMATS = ("onnx", "openvino")
#: Networks, see ``network.config``.
BACKBONES = ("mobilenet_v2", "resnet50", "resnet101", "resnet152")
#: Feature pyramids of MobileNetV2.
PYRAMIDS = ("movenet", "wide")
#: What an image model's output holds: heights of Gaussians, log-probabilities, or one vector per axis.
OUTPUTS = ("heatmaps", "logits", "simcc")
#: Where pixel p of n heatmap pixels over N crop pixels lies: p · (N − 1) / (n − 1), p · N / n, (p + ½) · N / n − ½.
ALIGNMENTS = ("udp", "corner", "half_pixel")
#: Image models of which posefix knows crop, normalisation and alignment, see ``weights.image_models``.
FAMILIES = ("hrnet", "rtmpose", "tinypose", "vitpose")
#: People of a part of a large input, about, see ``shards.plan``.
PART_SIZE = 2048
