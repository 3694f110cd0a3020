//! The only place that builds gRPC servers and clients: limits, deadlines, mTLS, the peer's identity.
