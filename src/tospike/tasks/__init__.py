"""Tasks: how a batch is fed, read out and scored."""

from tospike.tasks.base import Task as Task
from tospike.tasks.classification import Classification as Classification
from tospike.tasks.control import Control as Control
from tospike.tasks.environments import Statistics as Statistics
from tospike.tasks.regression import Regression as Regression
