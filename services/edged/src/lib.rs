//! edged: pods over the Container Runtime Interface.

mod error;
pub mod private_runtime;

pub use error::Error;
