//! Training: loader, optimiser, schedule, checkpoint, trainer. Never runs a teacher: the cache is the bridge.
