"""Moved to hierarchy.cloud; this name goes when nothing imports it any more."""

from hierarchy.cloud import CloudSegment as CloudSegment
