//! Kubernetes API mechanics: paths, selectors, patches, watch cache, tables.
