//! Simulation of the sync protocol.
