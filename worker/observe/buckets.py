"""Bounds of the histograms' buckets: fine where decisions are made, coarse elsewhere."""

from __future__ import annotations

# From a tenth of a millisecond (header validation) to the default deadline of a batch; thirds of a decade in between
# keep the error of an interpolated quantile under a factor of 2.5.
STAGE_BUCKETS_S = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)
# Fine around the usual objectives (a 20 ms linger plus a batch's service time), then coarse up to the age a backlog
# reaches after an hour's outage.
END_TO_END_BUCKETS_S = (
    0.005,
    0.01,
    0.02,
    0.03,
    0.05,
    0.075,
    0.1,
    0.15,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    300.0,
    3600.0,
)
# Powers of two, because the batch sizes people configure are.
BATCH_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
