//! EdgeController: Source and Sink for the core Kubernetes kinds.
