//! Tests of the subscriber.
