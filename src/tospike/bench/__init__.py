"""How fast SNNs run on this machine: beside their ANNs, beside SpikingJelly, and beside what the machine can do at most."""

from tospike.bench.cases import CASES as CASES
from tospike.bench.cases import Case as Case
from tospike.bench.speed import Speed as Speed
from tospike.bench.speed import measure as measure
