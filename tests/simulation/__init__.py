"""The streaming pipeline run whole, in simulated time, through crash schedules that a seed decides."""
