//! EdgeHub: the edge end of the connection; owns the store.
