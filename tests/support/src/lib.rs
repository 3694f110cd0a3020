//! Test support: containerd, images, fault proxy, network namespaces.
