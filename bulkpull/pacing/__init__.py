"""How soon and how many: the next poll, adaptive limits, the launch queue, backpressure."""
