"""Tasks: what goes into a network, what runs once behind it, and how its answer is scored."""

from tospike.tasks.base import Task as Task
from tospike.tasks.classification import Classification as Classification
from tospike.tasks.control import Control as Control
from tospike.tasks.detection import Detection as Detection
from tospike.tasks.environments import Statistics as Statistics
from tospike.tasks.regression import Regression as Regression
from tospike.tasks.segmentation import Segmentation as Segmentation
from tospike.tasks.video import Video as Video
