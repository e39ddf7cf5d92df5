"""Moved to hierarchy.edge; this name goes when nothing imports it any more."""

from hierarchy.edge import DEVIATION as DEVIATION
from hierarchy.edge import MEAN as MEAN
from hierarchy.edge import EdgeStep as EdgeStep
from hierarchy.edge import EdgeTrainer as EdgeTrainer
from hierarchy.edge import fastest_compute as fastest_compute
from hierarchy.edge import normalise as normalise
from hierarchy.edge import run_segment as run_segment
