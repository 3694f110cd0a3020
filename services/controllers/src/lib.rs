//! The controllers and the scheduler of the embedded control plane.
