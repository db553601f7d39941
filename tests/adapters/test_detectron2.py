"""detectron2 is not on PyPI: ``Instances`` and ``Boxes`` as its documentation describes their interface."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from checks import StandIn, assert_same, image, poses

from posefix.exceptions import InputError


class Boxes:
    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def __len__(self) -> int:
        return len(self.tensor)


class Instances:
    __module__ = "detectron2.structures.instances"

    def __init__(self, image_size: tuple[int, int], **fields: Any) -> None:
        self._image_size = image_size
        self._fields: dict[str, Any] = {}
        for name, value in fields.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        return self._image_size

    def set(self, name: str, value: Any) -> None:
        self._fields[name] = value

    def get_fields(self) -> dict[str, Any]:
        return self._fields

    def __getattr__(self, name: str) -> Any:
        if name == "_fields" or name not in self._fields:
            raise AttributeError(name)
        return self._fields[name]


def instances(people: int = 2, dtype: torch.dtype = torch.float32) -> Instances:
    torch.manual_seed(0)
    return Instances(
        (480, 640),
        pred_boxes=Boxes(torch.rand(people, 4)),
        scores=torch.rand(people),
        pred_classes=torch.zeros(people, dtype=torch.int64),
        pred_keypoints=torch.tensor(poses(people)).to(dtype),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("people", [0, 2])
def test_round_trip(people: int, dtype: torch.dtype, identity: StandIn) -> None:
    output, untouched = instances(people, dtype), instances(people, dtype)
    result = identity(image(), output)
    assert_same(result, untouched)
    assert_same(output, untouched)
    assert result is not output


def test_frame(shift: StandIn) -> None:
    output = instances()
    result = shift(image(), {"instances": output})["instances"]
    torch.testing.assert_close(result.pred_keypoints[..., :2], output.pred_keypoints[..., :2] + 1)
    assert (result.pred_keypoints[..., 2] == 0.75).all()
    sent = torch.tensor(shift.keypoints[0])
    torch.testing.assert_close(sent[..., :2], output.pred_keypoints[..., :2].double() - 0.5)
    assert result.scores is output.scores


def test_absent_field(identity: StandIn) -> None:
    empty = Instances((480, 640), scores=torch.zeros(0))
    assert identity(image(), empty).get_fields().keys() == {"scores"}
    with pytest.raises(InputError, match="expected the field pred_keypoints, got scores"):
        identity(image(), Instances((480, 640), scores=torch.zeros(2)))
