//! Properties of `plan`, tried on a small kernel in memory that behaves as Linux was seen to.
