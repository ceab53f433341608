"""Conversion methods, one file each; importing one registers it."""

from tospike.methods.base import METHODS as METHODS
from tospike.methods.base import Method as Method
from tospike.methods.base import Parts as Parts
from tospike.methods.base import method as method
from tospike.methods.ltb import LTB as LTB
from tospike.methods.qcfs import QCFS as QCFS
from tospike.methods.robust_norm import RobustNorm as RobustNorm
