"""Moved to hierarchy.cloud; this name goes when nothing imports it any more."""

from hierarchy.cloud import CloudStep as CloudStep
from hierarchy.cloud import CloudTrainer as CloudTrainer
from hierarchy.cloud import fastest_compute as fastest_compute
