//! Workers of job queues and brokers, drained.
