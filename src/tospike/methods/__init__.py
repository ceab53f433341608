"""Conversion methods, one file each or per family; importing one registers it."""

from tospike.methods.auto import Auto as Auto
from tospike.methods.base import METHODS as METHODS
from tospike.methods.base import Method as Method
from tospike.methods.base import Parts as Parts
from tospike.methods.base import method as method
from tospike.methods.calibration import AdvancedCalibration as AdvancedCalibration
from tospike.methods.calibration import LightCalibration as LightCalibration
from tospike.methods.ftbc import FTBC as FTBC
from tospike.methods.graded import Burst as Burst
from tospike.methods.graded import MultiThreshold as MultiThreshold
from tospike.methods.ltb import LTB as LTB
from tospike.methods.qcfs import QCFS as QCFS
from tospike.methods.rmp import RMP as RMP
from tospike.methods.robust_norm import RobustNorm as RobustNorm
from tospike.methods.signed_memory import SNM as SNM
from tospike.methods.signed_memory import Ternary as Ternary
