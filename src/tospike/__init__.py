"""tospike: from a trained network to a spiking one, with what the conversion cost and where."""

from tospike.check import SupportReport as SupportReport
from tospike.check import check as check
from tospike.convert import convert as convert
from tospike.evaluate import Interrupted as Interrupted
from tospike.evaluate import Result as Result
from tospike.evaluate import evaluate as evaluate
from tospike.methods import FTBC as FTBC
from tospike.methods import LTB as LTB
from tospike.methods import METHODS as METHODS
from tospike.methods import QCFS as QCFS
from tospike.methods import RMP as RMP
from tospike.methods import SNM as SNM
from tospike.methods import AdvancedCalibration as AdvancedCalibration
from tospike.methods import Auto as Auto
from tospike.methods import Burst as Burst
from tospike.methods import LightCalibration as LightCalibration
from tospike.methods import Method as Method
from tospike.methods import MultiThreshold as MultiThreshold
from tospike.methods import Parts as Parts
from tospike.methods import RobustNorm as RobustNorm
from tospike.methods import Ternary as Ternary
from tospike.methods import method as method
from tospike.neurons import NeuronModel as NeuronModel
from tospike.prepare import prepare as prepare
from tospike.run.network import SNN as SNN
from tospike.run.network import Conversion as Conversion
from tospike.run.simulate import simulate as simulate
from tospike.tasks import Classification as Classification
from tospike.tasks import Regression as Regression
from tospike.tasks import Task as Task
from tospike.train import History as History
from tospike.train import fit as fit

__version__ = "0.1.0.dev0"
