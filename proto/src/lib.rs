//! Generated code of every protocol that Skerry speaks, and the codec that it uses.
//!
//! The `.proto` files beside this crate's `src` are the source. The generated code is committed, so
//! that a build needs no generator; `cargo test -p skerry-proto` compares it with its source and
//! `SKERRY_REGENERATE=1 cargo test -p skerry-proto` writes it anew.

pub mod bounds;
pub mod codec;

/// Descriptors of all files, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("gen/descriptors.bin");

/// The protocol of every hop: `skerry.sync`.
pub mod sync {
    /// Version 1.
    #[allow(missing_docs, unreachable_pub, clippy::all, rustdoc::all)]
    pub mod v1 {
        include!("gen/skerry.sync.v1.rs");
    }
}

/// CloudHub's sessions: `skerry.hub`.
pub mod hub {
    /// Version 1.
    #[allow(missing_docs, unreachable_pub, clippy::all, rustdoc::all)]
    pub mod v1 {
        include!("gen/skerry.hub.v1.rs");
    }
}

/// Joining and renewing: `skerry.identity`.
pub mod identity {
    /// Version 1.
    #[allow(missing_docs, unreachable_pub, clippy::all, rustdoc::all)]
    pub mod v1 {
        include!("gen/skerry.identity.v1.rs");
    }
}

/// Who may use a node's API: `skerry.review`.
pub mod review {
    /// Version 1.
    #[allow(missing_docs, unreachable_pub, clippy::all, rustdoc::all)]
    pub mod v1 {
        include!("gen/skerry.review.v1.rs");
    }
}

/// What the edge tells on its own machine: `skerry.edge`.
pub mod edge {
    /// Version 1.
    #[allow(missing_docs, unreachable_pub, clippy::all, rustdoc::all)]
    pub mod v1 {
        include!("gen/skerry.edge.v1.rs");
    }
}

/// The Container Runtime Interface.
pub mod cri {
    /// `runtime.v1`, as containerd and CRI-O serve it.
    #[allow(missing_docs, unreachable_pub, clippy::all, rustdoc::all)]
    pub mod v1 {
        include!("gen/runtime.v1.rs");
    }
}

/// What the Container Runtime Interface cannot say to containerd.
pub mod containerd {
    /// `services.tasks.v1`.
    pub mod tasks {
        /// Version 1.
        #[allow(missing_docs, unreachable_pub, clippy::all, rustdoc::all)]
        pub mod v1 {
            include!("gen/containerd.services.tasks.v1.rs");
        }
    }
}

/// Devices between a node and its mappers: `skerry.dmi`, and KubeEdge's Device Mapper Interface.
pub mod dmi {
    /// Version 1 of our own.
    #[allow(missing_docs, unreachable_pub, clippy::all, rustdoc::all)]
    pub mod v1 {
        include!("gen/skerry.dmi.v1.rs");
    }

    /// KubeEdge's `v1beta1`, as existing mappers speak it.
    #[allow(missing_docs, unreachable_pub, clippy::all, rustdoc::all)]
    pub mod v1beta1 {
        include!("gen/v1beta1.rs");
    }
}
