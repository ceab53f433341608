import torch
from torch import nn

from tospike.graph.capture import capture
from tospike.graph.inputs import input_names
from tospike.graph.kinds import Kind


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x, y=None):
        h = self.a(x)
        h += x
        h.relu_()
        return self.b(h) + h


def test_in_place_changes_are_followed():
    ann, x = Block(), torch.randn(4, 3)
    captured = capture(ann, x)
    assert torch.equal(captured.run({"x": x.clone()}), ann(x.clone()))
    (node,) = captured.nodes(Kind.ACTIVATION)
    assert len(node.users) == 2
    assert "test_capture.py:" in node.meta["operation"].source


def test_inputs_stand_in_the_order_of_forward():
    assert input_names(Block(), {"y": 1, "x": 2}) == ("x", "y")
    assert input_names(Block(), torch.zeros(1, 3)) == ("x",)
