//! The sync protocol's state machines, without IO, clock or randomness.
